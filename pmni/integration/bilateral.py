"""Bilateral normal integration, perspective.

A surface point is X = z m with m = K^-1 (u, v, 1), a column of K^-1 is the step e = dm/du (or
dm/dv), and the unknown is the log-depth Z = log z. Three ideas make the differences of Z:

*What a normal says.* The normal n is orthogonal to dX/du, so (n . m) dZ/du + n . e = 0. Between two
pixels p and q, each surface is taken to be its tangent plane as far as the ray midway between them,
where both planes meet (Milano, López-Antequera, Dhingra, Siegwart, Thiel, ICCV 2025):

    Z_q - Z_p = d = log (n_p . m_p / n_p . m_mid) - log (n_q . m_q / n_q . m_mid).

That is exact for planes and of second order for curved surfaces, where the one-sided differences
of the original (Cao, Santo, Shi, Okura, Matsushita, ECCV 2022) are of first order.

*Residuals.* x = -(n . m) (Z_q - Z_p) / |e| is the change along the viewing ray as
seen along the normal, in pixels. Residuals are weighted in that unit, from both ends of an edge.

*Depth discontinuities.* Of a pixel's two neighbours along an axis at least one is on the same
surface: with x+ and x- the changes towards the two, the first has the weight
sigmoid(k (x-^2 - x+^2)) (Cao et al.). Besides, x is the sine of an angle where the surface is
continuous, and unbounded at a discontinuity: the Geman-McClure weight 1 / (1 + x^2 / s^2)^2
vanishes there.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit

from pmni.config.integration import BilateralSettings, SolverSettings
from pmni.errors import DivergenceError
from pmni.geometry.cameras import pixel_grid
from pmni.integration.least_squares import DifferenceSolver
from pmni.integration.pixel_graph import PixelGraph, pixel_graph

MIN_WEIGHT = 1e-12
"""Smallest weight of an edge relative to the largest; keeps the depth of detached pieces finite."""


@dataclass(frozen=True)
class DepthSolution:
    """The z-depth of one view."""

    depth: Float[np.ndarray, "H W"]
    """NaN outside the mask; the median of each connected part of the mask is 1."""
    iterations: int
    """Re-weighting iterations done."""
    change: float
    """Mean change of the log-depth in the last of them, as a fraction of its mean deviation."""


@dataclass(frozen=True)
class Edges:
    """Differences of log-depth along the edges of a pixel graph, from normals."""

    d: Float[np.ndarray, " E"]
    """Z_q - Z_p of a continuous surface."""
    omega_p: Float[np.ndarray, " E"]
    """-(n . m) / |e| at p, which turns differences of Z into x."""
    omega_q: Float[np.ndarray, " E"]
    """-(n . m) / |e| at q."""


def integrate_depth(
    normals: Float[np.ndarray, "H W 3"],
    mask: Bool[np.ndarray, "H W"],
    K: Float[np.ndarray, "3 3"],
    settings: BilateralSettings,
    solver: SolverSettings,
) -> DepthSolution:
    """z-depth from unit normals (camera frame, facing the camera).

    Each connected part of the mask has a scale of its own: its median depth is 1. Raises
    DivergenceError when there is no finite solution.
    """
    graph = pixel_graph(mask)
    edges = normal_differences(normals[mask].astype(np.float64), mask, K, graph, settings)
    system = DifferenceSolver(graph, solver)
    iterations = settings.max_iterations if settings.sharpness > 0 else 1
    weight_p = weight_q = np.ones(len(graph.p))
    Z = np.zeros(graph.pixels)
    change, done = np.inf, 0
    while done < iterations and change > settings.tolerance:
        weights = weight_p * edges.omega_p**2 + weight_q * edges.omega_q**2
        weights = np.maximum(weights, MIN_WEIGHT * weights.max(initial=0.0))
        before = Z
        Z = graph.centred_by_part(system.solve(weights, edges.d, Z))
        if not np.isfinite(Z).all():
            raise DivergenceError("normal integration met a non-finite value")
        change = relative_change(before, Z)
        new_p, new_q = bilateral_weights(graph, edges, Z, settings)
        share = 1.0 if done < settings.undamped_iterations else 0.5
        weight_p = share * new_p + (1 - share) * weight_p
        weight_q = share * new_q + (1 - share) * weight_q
        done += 1
    depth = np.full(mask.shape, np.nan)
    depth[mask] = np.exp(Z)
    return DepthSolution(depth, done, change)


def normal_differences(
    n: Float[np.ndarray, "N 3"],
    mask: Bool[np.ndarray, "H W"],
    K: Float[np.ndarray, "3 3"],
    graph: PixelGraph,
    settings: BilateralSettings,
) -> Edges:
    """The differences of log-depth along the graph's edges that the normals n imply."""
    K_inverse = np.linalg.inv(K)
    m = pixel_grid(*mask.shape)[mask] @ K_inverse.T
    cosine = np.minimum((n * m).sum(-1), -settings.min_cosine)
    # h = (n . e / 2) / (n . m), the relative change of n . m in half a pixel, along u and v: (N, 2)
    bend = 0.5 * (n @ K_inverse[:, :2]) / cosine[:, None]
    h = np.clip(bend, -settings.max_bend, settings.max_bend)
    p, q, axis = graph.p, graph.q, graph.axis
    step = np.linalg.norm(K_inverse[:, :2], axis=0)[axis]
    return Edges(
        d=np.log1p(-h[q, axis]) - np.log1p(h[p, axis]),
        omega_p=-cosine[p] / step,
        omega_q=-cosine[q] / step,
    )


def bilateral_weights(
    graph: PixelGraph, edges: Edges, Z: Float[np.ndarray, " N"], settings: BilateralSettings
) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, " E"]]:
    """The weight of each edge at its pixel p, and at q: from 0 to 2, 1 if both sides are alike.

    It is less than 1 where the change across the edge is larger than to the pixel's other side.
    """
    k = settings.sharpness
    p, q, axis = graph.p, graph.q, graph.axis
    difference = Z[q] - Z[p]
    square_p = (edges.omega_p * difference) ** 2
    square_q = (edges.omega_q * difference) ** 2
    ahead = np.zeros((2, graph.pixels))
    behind = np.zeros((2, graph.pixels))
    ahead[axis, p] = square_p
    behind[axis, q] = square_q
    s = settings.discontinuity
    weight_p = 2 * expit(k * (behind[axis, p] - square_p)) / (1 + square_p / s**2) ** 2
    weight_q = 2 * expit(k * (ahead[axis, q] - square_q)) / (1 + square_q / s**2) ** 2
    return weight_p, weight_q


def relative_change(before: Float[np.ndarray, " N"], after: Float[np.ndarray, " N"]) -> float:
    """Mean |after - before| over the mean |after|; 0 for what differs by rounding only."""
    change, deviation = np.abs(after - before).mean(), np.abs(after).mean()
    if change < 1e-12:
        return 0.0
    return float(change / deviation) if deviation > 0 else np.inf
