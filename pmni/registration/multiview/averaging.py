"""Robust averaging of the relative poses of a graph, several pose sets at a time."""

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from pmni.registration.multiview.graph import PairGraph

MIN_SCORE = 0.02
"""Lower bound of the scores that weights are made of."""


def average_rotations(
    graph: PairGraph,
    start: Float[np.ndarray, "B V 3 3"],
    iterations: int = 8,
    scale_deg: tuple[float, float] = (12.0, 6.0),
) -> Float[np.ndarray, "B V 3 3"]:
    """World-to-camera rotations that agree best with the graph's relative rotations.

    Iteratively reweighted least squares in the tangent space (Chatterjee and Govindu, PAMI 2018),
    with the currently closest hypothesis of each pair, and Geman-McClure weights with a shrinking
    scale times the squared scores.
    """
    first, second = graph.pairs.T
    rotations = start
    for iteration in range(iterations):
        progress = min(1.0, iteration / max(0.6 * iterations, 1))
        scale = scale_deg[0] * (scale_deg[1] / scale_deg[0]) ** progress
        closest, angle = closest_hypotheses(graph, rotations)
        edges = np.arange(len(graph.pairs))
        relative, scores = graph.rotations[edges, closest], graph.scores[edges, closest]
        weights = scores.clip(MIN_SCORE) ** 2 / (1 + (angle / scale) ** 2) ** 2
        # R_j exp(d) = R_ij R_i
        change = rotations[:, second].swapaxes(-1, -2) @ relative @ rotations[:, first]
        tangent = Rotation.from_matrix(change.reshape(-1, 3, 3)).as_rotvec()
        step = solve_differences(graph, weights, tangent.reshape(*angle.shape, 3))
        turn = Rotation.from_rotvec(step.reshape(-1, 3)).as_matrix()
        rotations = rotations @ turn.reshape(rotations.shape)
    return rotations


def average_translations(
    graph: PairGraph,
    rotations: Float[np.ndarray, "B V 3 3"],
    centres: Float[np.ndarray, "V 3"],
    scale: float,
    tolerance_deg: float = 10.0,
    iterations: int = 8,
) -> Float[np.ndarray, "B V 3"]:
    """World-to-camera translations that agree best with the graph, given the rotations.

    The unknowns are the world positions of a point near the object that is fixed in each camera's
    frame (`centres`), so that an error of a rotation does not move the object. A relative pose maps
    view i's point into view j and vice versa; both differences of positions are averaged, with
    weights of a Cauchy loss of the given scale (units of `centres`). Hypotheses farther than the
    tolerance from the rotations do not count.
    """
    first, second = graph.pairs.T
    closest, angle = closest_hypotheses(graph, rotations)
    edges = np.arange(len(graph.pairs))
    R, t = graph.rotations[edges, closest], graph.translations[edges, closest]
    scores = graph.scores[edges, closest].clip(MIN_SCORE)
    into_second = _apply(R, centres[first]) + t - centres[second]
    into_first = _apply(R.swapaxes(-1, -2), centres[second] - t) - centres[first]
    to_world = rotations.swapaxes(-1, -2)
    difference = 0.5 * (
        _apply(to_world[:, first], into_first) - _apply(to_world[:, second], into_second)
    )
    weights = scores**2 * (angle < tolerance_deg) + 1e-6
    positions = solve_differences(graph, weights, difference)
    for _ in range(iterations):
        residual = difference - (positions[:, second] - positions[:, first])
        robust = 1 / (1 + (residual**2).sum(-1) / scale**2)
        positions = solve_differences(graph, weights * robust, difference)
    return centres - _apply(rotations, positions)


def closest_hypotheses(
    graph: PairGraph, rotations: Float[np.ndarray, "B V 3 3"]
) -> tuple[Int[np.ndarray, "B E"], Float[np.ndarray, "B E"]]:
    """Index of the hypothesis of each pair closest to the rotations, and its angle in degrees."""
    first, second = graph.pairs.T
    relative = rotations[:, second] @ rotations[:, first].swapaxes(-1, -2)
    trace = np.einsum("bek,ehk->beh", relative.reshape(*relative.shape[:2], 9),
                      graph.rotations.reshape(*graph.scores.shape, 9), optimize=True)  # fmt: skip
    trace = np.where(np.isfinite(graph.scores), trace, -np.inf)
    cosine = (trace.max(-1) - 1) / 2
    return trace.argmax(-1), np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))


def solve_differences(
    graph: PairGraph, weights: Float[np.ndarray, "B E"], differences: Float[np.ndarray, "B E 3"]
) -> Float[np.ndarray, "B V 3"]:
    """Vectors x of mean zero that minimise sum_e w_e |x_j - x_i - d_e|^2."""
    first, second = graph.pairs.T
    sets = np.arange(len(weights))[:, None]
    laplacian = np.zeros((len(weights), graph.views, graph.views))
    rhs = np.zeros((len(weights), graph.views, 3))
    for row, column, sign in ((first, first, 1), (second, second, 1), (first, second, -1)):
        np.add.at(laplacian, (sets, row, column), sign * weights)
    np.add.at(laplacian, (sets, second, first), -weights)
    np.add.at(rhs, (sets, second), weights[..., None] * differences)
    np.add.at(rhs, (sets, first), -weights[..., None] * differences)
    scale = np.trace(laplacian, axis1=1, axis2=2)[:, None, None] / graph.views
    regularised = laplacian + scale * (1 / graph.views + 1e-9 * np.eye(graph.views))
    return np.linalg.solve(regularised, rhs)


def _apply(
    matrices: Float[np.ndarray, "*batch 3 3"], vectors: Float[np.ndarray, "*other 3"]
) -> Float[np.ndarray, "*result 3"]:
    """Matrices times vectors."""
    return (matrices @ vectors[..., None])[..., 0]
