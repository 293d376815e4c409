"""The graph of pairs of views with several hypotheses of each pair's relative pose."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

LEVELS = ((0.12, 0.2), (0.05, 0.1), (-0.05, 0.0), (-0.2, -0.1), (-np.inf, -np.inf))
"""Lowest raw and normalised score of an edge, from strict to none: the first that connects."""

CYCLE_TOLERANCE = 6.0
"""Degrees by which three relative rotations may fail to close (standard deviation)."""

CLUSTER_SCORE = 0.55
"""A pair's first hypothesis above this normalised score is taken before all others."""

NOISE = (0.1, 0.3)
"""Scales of the Gumbel noise on the scores of randomised trees."""


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
    """`Agreement.raw`."""

    def keep(self, chosen: Bool[np.ndarray, "E H"]) -> "PairGraph":
        """Without the hypotheses that are not chosen, and the pairs that have none left."""
        scores = np.where(chosen, self.scores, -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")
        some = np.isfinite(scores).any(1)
        return PairGraph(
            self.views,
            self.pairs[some],
            np.take_along_axis(self.rotations, order[..., None, None], 1)[some],
            np.take_along_axis(self.translations, order[..., None], 1)[some],
            np.take_along_axis(scores, order, 1)[some],
            np.take_along_axis(self.raw, order, 1)[some],
        )

    def components(self) -> Int[np.ndarray, " V"]:
        """The number of the connected component of each view."""
        return connected_components(self._matrix(np.ones(len(self.pairs))), directed=False)[1]

    def _matrix(self, values: Float[np.ndarray, " E"]) -> coo_array:
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
    """Group single hypotheses of pairs i < j by pair, the highest score first."""
    order = np.lexsort((-scores, pairs[:, 1], pairs[:, 0]))
    found, index, counts = np.unique(pairs[order], axis=0, return_inverse=True, return_counts=True)
    slot = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(found), int(counts.max(initial=1)))
    graph = PairGraph(
        views,
        found,
        np.tile(np.eye(3), (*shape, 1, 1)),
        np.zeros((*shape, 3)),
        np.full(shape, -np.inf),
        np.full(shape, -np.inf),
    )
    at = (index.reshape(-1), slot)
    graph.rotations[at] = rotations[order]
    graph.translations[at] = translations[order]
    graph.scores[at] = scores[order]
    graph.raw[at] = raw[order]
    return graph


def reliable(graph: PairGraph) -> PairGraph:
    """The hypotheses above the strictest of LEVELS that leaves as few components as all do."""
    fewest = graph.components().max(initial=0)
    kept = graph
    for lowest_raw, lowest in LEVELS:
        kept = graph.keep((graph.raw > lowest_raw) & (graph.scores > lowest))
        if kept.components().max(initial=0) == fewest:
            break
    return kept


def cycle_support(graph: PairGraph) -> Float[np.ndarray, "E H"]:
    """How many third views k confirm each rotation: R_kj R_ik = R_ij, weighted by their scores.

    Each third view counts its best pair of hypotheses, by the lower of their scores times a
    Gaussian of the angle that is left over.
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
        found = np.exp(-0.5 * (angle / CYCLE_TOLERANCE) ** 2) * lower.reshape(-1, 1)
        support[edge] = found.reshape(len(third), width * width, width).max(1).sum(0)
    return support


def spanning_tree(
    graph: PairGraph, confidence: Float[np.ndarray, "E H"], root: int = 0
) -> Float[np.ndarray, "V 3 3"]:
    """World-to-camera rotations along the maximum spanning tree; the root's is the identity.

    Of each pair the most confident hypothesis is used. Other components than the root's each
    start with an identity of their own.
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


def spanning_trees(graph: PairGraph, count: int, seed: int) -> Float[np.ndarray, "B V 3 3"]:
    """World-to-camera rotations of several spanning trees.

    The maximum spanning trees by score times cycle support and by score; then `count` with
    Gumbel noise on the scores, two thirds of them with the strong edges (`CLUSTER_SCORE`) first:
    clusters of neighbouring views then hold together, and the trees try the weak bridges between
    them.
    """
    rng = np.random.default_rng(seed)
    scores = graph.scores
    first = np.zeros(scores.shape, bool)
    first[:, 0] = True
    clustered = np.where(first & (scores > CLUSTER_SCORE), scores + 3, scores)
    root = int(np.argmax(np.bincount(
        graph.pairs.reshape(-1), np.repeat(scores[:, 0], 2), minlength=graph.views
    )))  # fmt: skip
    supported = scores * (0.3 + cycle_support(graph))  # -inf stays
    confidences = [supported, scores]
    for index in range(count):
        base = clustered if index % 3 else scores
        confidences.append(base + rng.gumbel(scale=NOISE[index % 2], size=scores.shape))
    return np.stack([spanning_tree(graph, confidence, root) for confidence in confidences])
