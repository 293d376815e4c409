"""Bilateral normal integration, perspective.

A surface point is X = z m with m = K^-1 (u, v, 1), a column of K^-1 is the step e = dm/du (or
dm/dv), and the unknown is the log-depth Z = log z. Three ideas make the differences of Z:

*What a normal says.* The normal n is orthogonal to dX/du, so (n . m) dZ/du + n . e = 0. Between two
pixels p and q, each surface is taken to be its tangent plane as far as the ray midway between them,
where both planes meet (Milano, López-Antequera, Dhingra, Siegwart, Thiel, ICCV 2025):

    Z_q - Z_p = d = log (n_p . m_p / n_p . m_mid) - log (n_q . m_q / n_q . m_mid).

That is exact for planes and of second order for curved surfaces, where the one-sided differences
of the original (Cao, Santo, Shi, Okura, Matsushita, ECCV 2022) are of first order.

*How far it is to be trusted.* x = -(n . m) (Z_q - Z_p) / |e| is the change along the viewing ray as
seen along the normal, in pixels. Residuals are weighted in that unit, from both ends of an edge.

*Where the surface is torn.* Of a pixel's two neighbours along an axis at least one is on the same
surface: with x+ and x- the changes towards the two, the first counts by sigmoid(k (x-^2 - x+^2))
(Cao et al.). Besides, x is the sine of an angle where the surface is whole, and unbounded where it
is torn: the Geman-McClure weight 1 / (1 + x^2 / s^2)^2 lets go of the second kind for good.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit

from pmni.errors import DivergenceError
from pmni.geometry.cameras import pixel_grid
from pmni.integration.least_squares import Differences
from pmni.integration.pixel_graph import PixelGraph, pixel_graph

LEAST_COSINE = 0.02
"""Normals at a right angle to the ray, or beyond, count as if they were this far from it."""
LARGEST_BEND = 0.9
"""Half a pixel changes n . m by at most this fraction."""
TEAR = 0.8
"""s: the change from which a difference counts as a tear; a whole surface has |x| <= 1."""
LEAST_WEIGHT = 1e-12
"""Of an edge, relative to the largest, so that torn-off pieces stay somewhere."""
UNDAMPED = 6
"""Iterations before new weights are averaged with the old ones, which ends their alternation."""


@dataclass(frozen=True)
class Integrated:
    """The z-depth of one view, and how it came about."""

    depth: Float[np.ndarray, "H W"]
    """NaN outside the mask; the median of each connected part of the mask is 1."""
    iterations: int
    """Re-weighting iterations done."""
    change: float
    """Mean change of the log-depth in the last of them, as a fraction of its mean deviation."""


@dataclass(frozen=True)
class Edges:
    """What the normals say of the edges of a pixel graph."""

    d: Float[np.ndarray, " E"]
    """Z_q - Z_p of a whole surface."""
    omega_p: Float[np.ndarray, " E"]
    """-(n . m) / |e| at p, which turns differences of Z into x."""
    omega_q: Float[np.ndarray, " E"]
    """The same at q."""


def integrate(
    normals: Float[np.ndarray, "H W 3"],
    mask: Bool[np.ndarray, "H W"],
    K: Float[np.ndarray, "3 3"],
    k: float,
    iterations: int,
    tolerance: float,
) -> Integrated:
    """z-depth from unit normals (camera frame, facing the camera).

    `k` is the sharpness of the weights; 0 leaves all weights alone (plain least squares). Each
    connected part of the mask has a scale of its own: its median depth is 1. Raises
    DivergenceError when there is no finite solution.
    """
    graph = pixel_graph(mask)
    edges = normal_differences(normals[mask].astype(np.float64), mask, K, graph)
    system = Differences(graph)
    trust_p = trust_q = np.ones(len(graph.p))
    Z = np.zeros(graph.pixels)
    change, done = np.inf, 0
    while done < (iterations if k > 0 else 1) and change > tolerance:
        weights = trust_p * edges.omega_p**2 + trust_q * edges.omega_q**2
        weights = np.maximum(weights, LEAST_WEIGHT * weights.max(initial=0.0))
        before = Z
        Z = graph.centred_by_part(system.solve(weights, edges.d, Z))
        if not np.isfinite(Z).all():
            raise DivergenceError("normal integration met a non-finite value")
        change = relative_change(before, Z)
        new_p, new_q = one_sided_trust(graph, edges, Z, k)
        share = 1.0 if done < UNDAMPED else 0.5
        trust_p = share * new_p + (1 - share) * trust_p
        trust_q = share * new_q + (1 - share) * trust_q
        done += 1
    depth = np.full(mask.shape, np.nan)
    depth[mask] = np.exp(Z)
    return Integrated(depth, done, change)


def normal_differences(
    n: Float[np.ndarray, "N 3"],
    mask: Bool[np.ndarray, "H W"],
    K: Float[np.ndarray, "3 3"],
    graph: PixelGraph,
) -> Edges:
    """The differences of log-depth along the graph's edges that the normals n ask for."""
    K_inverse = np.linalg.inv(K)
    m = pixel_grid(*mask.shape)[mask] @ K_inverse.T
    cosine = np.minimum((n * m).sum(-1), -LEAST_COSINE)
    # h = (n . e / 2) / (n . m), the relative change of n . m in half a pixel, along u and v: (N, 2)
    h = np.clip(0.5 * (n @ K_inverse[:, :2]) / cosine[:, None], -LARGEST_BEND, LARGEST_BEND)
    p, q, axis = graph.p, graph.q, graph.axis
    step = np.linalg.norm(K_inverse[:, :2], axis=0)[axis]
    return Edges(
        d=np.log1p(-h[q, axis]) - np.log1p(h[p, axis]),
        omega_p=-cosine[p] / step,
        omega_q=-cosine[q] / step,
    )


def one_sided_trust(
    graph: PixelGraph, edges: Edges, Z: Float[np.ndarray, " N"], k: float
) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, " E"]]:
    """The trust in each edge as its pixel p sees it, and as q sees it: from 0 to 2, 1 if in doubt.

    It is less than 1 where the change across the edge is larger than to the pixel's other side.
    """
    p, q, axis = graph.p, graph.q, graph.axis
    difference = Z[q] - Z[p]
    square_p = (edges.omega_p * difference) ** 2
    square_q = (edges.omega_q * difference) ** 2
    ahead = np.zeros((2, graph.pixels))
    behind = np.zeros((2, graph.pixels))
    ahead[axis, p] = square_p
    behind[axis, q] = square_q
    trust_p = 2 * expit(k * (behind[axis, p] - square_p)) / (1 + square_p / TEAR**2) ** 2
    trust_q = 2 * expit(k * (ahead[axis, q] - square_q)) / (1 + square_q / TEAR**2) ** 2
    return trust_p, trust_q


def relative_change(before: Float[np.ndarray, " N"], after: Float[np.ndarray, " N"]) -> float:
    """Mean |after - before| over the mean |after|; 0 for what differs by rounding only."""
    change, deviation = np.abs(after - before).mean(), np.abs(after).mean()
    if change < 1e-12:
        return 0.0
    return float(change / deviation) if deviation > 0 else np.inf
