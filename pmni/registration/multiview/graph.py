"""The graph of pairs of views, with several hypotheses of each pair's relative pose."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

from pmni.config.registration import GraphSettings

CLUSTER_BONUS = 3.0
"""Added to the scores of strong hypotheses, which are at most 1, so that trees use them first."""


@dataclass(frozen=True)
class PairGraph:
    """Hypotheses x_j = R x_i + t for E pairs of views i < j, at most H a pair, best first."""

    views: int
    pairs: Int[np.ndarray, "E 2"]
    rotations: Float[np.ndarray, "E H 3 3"]
    translations: Float[np.ndarray, "E H 3"]
    scores: Float[np.ndarray, "E H"]
    """Normalised, comparable between pairs; -inf where a pair has fewer than H hypotheses."""
    raw: Float[np.ndarray, "E H"]
    """`OverlapScore.raw`."""

    def subgraph(self, kept: Bool[np.ndarray, "E H"]) -> "PairGraph":
        """The graph of the hypotheses that are kept, without pairs that have none left."""
        scores = np.where(kept, self.scores, -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")
        nonempty = np.isfinite(scores).any(1)
        return PairGraph(
            self.views,
            self.pairs[nonempty],
            np.take_along_axis(self.rotations, order[..., None, None], 1)[nonempty],
            np.take_along_axis(self.translations, order[..., None], 1)[nonempty],
            np.take_along_axis(scores, order, 1)[nonempty],
            np.take_along_axis(self.raw, order, 1)[nonempty],
        )

    def components(self) -> Int[np.ndarray, " V"]:
        """The number of the connected component of each view."""
        return connected_components(self._matrix(np.ones(len(self.pairs))), directed=False)[1]

    def _matrix(self, values: Float[np.ndarray, " E"]) -> coo_array:
        """A value for each pair as a sparse matrix."""
        first, second = self.pairs.T
        return coo_array((values, (first, second)), shape=(self.views, self.views))


def pair_graph(
    views: int,
    pairs: Int[np.ndarray, "M 2"],
    rotations: Float[np.ndarray, "M 3 3"],
    translations: Float[np.ndarray, "M 3"],
    scores: Float[np.ndarray, " M"],
    raw: Float[np.ndarray, " M"],
) -> PairGraph:
    """The graph of M single hypotheses of pairs i < j, grouped by pair, highest score first."""
    order = np.lexsort((-scores, pairs[:, 1], pairs[:, 0]))
    edges, index, counts = np.unique(pairs[order], axis=0, return_inverse=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(edges), int(counts.max(initial=1)))
    graph = PairGraph(
        views,
        edges,
        np.tile(np.eye(3), (*shape, 1, 1)),
        np.zeros((*shape, 3)),
        np.full(shape, -np.inf),
        np.full(shape, -np.inf),
    )
    at = (index.reshape(-1), rank)
    graph.rotations[at] = rotations[order]
    graph.translations[at] = translations[order]
    graph.scores[at] = scores[order]
    graph.raw[at] = raw[order]
    return graph


def reliable_subgraph(graph: PairGraph, settings: GraphSettings) -> PairGraph:
    """The hypotheses above the strictest score level that leaves as few components as all have."""
    fewest = graph.components().max(initial=0)
    for lowest_raw, lowest in settings.score_levels:
        subgraph = graph.subgraph((graph.raw > lowest_raw) & (graph.scores > lowest))
        if subgraph.components().max(initial=0) == fewest:
            return subgraph
    return graph.subgraph(np.isfinite(graph.scores))


def cycle_support(graph: PairGraph, tolerance_deg: float) -> Float[np.ndarray, "E H"]:
    """How well third views k confirm each rotation: R_kj R_ik = R_ij.

    Each third view counts its best pair of hypotheses, by the lower of their scores times a
    Gaussian of the angle of the cycle, whose standard deviation is the tolerance.
    """
    width = graph.scores.shape[1]
    table = np.zeros((graph.views, graph.views, width, 3, 3))
    score = np.full((graph.views, graph.views, width), -np.inf)
    first, second = graph.pairs.T
    table[first, second] = graph.rotations
    table[second, first] = graph.rotations.swapaxes(-1, -2)
    score[first, second] = score[second, first] = graph.scores
    support = np.zeros_like(graph.scores)
    for edge, (i, j) in enumerate(graph.pairs):
        third = np.flatnonzero(np.isfinite(score[i, :, 0]) & np.isfinite(score[:, j, 0]))
        # R_kj R_ik of all pairs of hypotheses, as the rows of a matrix
        around = table[third, j][:, None] @ table[i, third][:, :, None]
        lower = np.minimum(score[third, j][:, None], score[i, third][:, :, None]).clip(0)
        closing = around.reshape(-1, 9) @ graph.rotations[edge].reshape(width, 9).T
        angle = np.rad2deg(np.arccos(np.clip((closing - 1) / 2, -1, 1)))
        closure = np.exp(-0.5 * (angle / tolerance_deg) ** 2) * lower.reshape(-1, 1)
        support[edge] = closure.reshape(len(third), width * width, width).max(1).sum(0)
    return support


def spanning_tree(
    graph: PairGraph, confidence: Float[np.ndarray, "E H"], root: int = 0
) -> Float[np.ndarray, "V 3 3"]:
    """World-to-camera rotations along the maximum spanning tree; the root's is the identity.

    The most confident hypothesis of each pair is used. Every other component starts with an
    identity of its own.
    """
    best = confidence.argmax(1)
    weight = confidence.max(1)
    # scipy looks for the minimum, and takes zero for a missing edge
    tree = minimum_spanning_tree(graph._matrix(weight.max(initial=0) - weight + 1))
    edge_of = {tuple(pair): edge for edge, pair in enumerate(graph.pairs.tolist())}
    rotations = np.tile(np.eye(3), (graph.views, 1, 1))
    reached: set[int] = set()
    for start in (root, *range(graph.views)):
        if start in reached:
            continue
        order, parents = breadth_first_order(tree, start, directed=False)
        reached.update(order.tolist())
        for view in order[1:].tolist():
            parent = int(parents[view])
            edge = edge_of[min(parent, view), max(parent, view)]
            step = graph.rotations[edge, best[edge]]
            rotations[view] = (step if parent < view else step.T) @ rotations[parent]
    return rotations


def spanning_trees(
    graph: PairGraph, settings: GraphSettings, seed: int
) -> Float[np.ndarray, "B V 3 3"]:
    """World-to-camera rotations of several spanning trees.

    The maximum spanning trees by score times cycle support and by score; then randomised ones with
    Gumbel noise on the scores, two thirds of them with strong edges first: clusters of neighbouring
    views then stay together, and the trees sample the weak bridges between them.
    """
    rng = np.random.default_rng(seed)
    scores = graph.scores
    first = np.zeros(scores.shape, bool)
    first[:, 0] = True
    strong = first & (scores > settings.cluster_score)
    clustered = np.where(strong, scores + CLUSTER_BONUS, scores)
    root = int(np.argmax(np.bincount(
        graph.pairs.reshape(-1), np.repeat(scores[:, 0], 2), minlength=graph.views
    )))  # fmt: skip
    supported = scores * (0.3 + cycle_support(graph, settings.cycle_tolerance_deg))  # -inf stays
    confidences = [supported, scores]
    for index in range(settings.trees):
        base = clustered if index % 3 else scores
        noise = rng.gumbel(scale=settings.tree_noise[index % 2], size=scores.shape)
        confidences.append(base + noise)
    return np.stack([spanning_tree(graph, confidence, root) for confidence in confidences])
