"""Bilateral normal integration (Cao, Santo, Shi, Okura, Matsushita, ECCV 2022), perspective.

A surface point is X = z m with m = K^-1 (u, v, 1). A normal n is orthogonal to dX/du and dX/dv, so
the log-depth Z = log z obeys, with the pixel's focal lengths,

    (n . m) dZ/du + n_x / fx = 0,      (n . m) dZ/dv + n_y / fy = 0.

Each derivative is taken to both neighbours of a pixel. On a smooth surface both hold; at a depth
discontinuity only one does, and the weight of the other goes to zero: with r+ and r- the changes
(n . m) dZ towards the two neighbours, the weight of the first is sigmoid(k (r-^2 - r+^2)) (eq. 12),
re-estimated from the solution until the energy settles.
"""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float
from scipy.sparse.linalg import cg
from scipy.special import expit

from pmni.cameras import pixel_grid
from pmni.errors import DivergenceError

CG_TOLERANCE = 1e-3
CG_ITERATIONS = 5000


def integrate(
    normals: Float[np.ndarray, "H W 3"],
    mask: Bool[np.ndarray, "H W"],
    K: Float[np.ndarray, "3 3"],
    k: float,
    iterations: int,
    tolerance: float,
) -> Float[np.ndarray, "H W"]:
    """z-depth from unit normals (camera frame, facing the camera); NaN outside the mask.

    Each connected part of the mask has a scale of its own: its median depth is 1. Pixels without
    a neighbour get that depth. Raises DivergenceError when the solution is not finite.
    """
    n = normals[mask].astype(np.float64)
    m = pixel_grid(*mask.shape)[mask] @ np.linalg.inv(K).T
    along_u, along_v = (sp.diags(focal * (n * m).sum(-1)) for focal in (K[0, 0], K[1, 1]))
    right, left, down, up = (difference(mask, *step) for step in ((0, 1), (0, -1), (1, 0), (-1, 0)))
    # Differences towards both neighbours, with the sign of the derivative; residuals in pixels.
    A = [along_u @ right, -along_u @ left, along_v @ down, -along_v @ up]
    b = [-n[:, 0], -n[:, 0], -n[:, 1], -n[:, 1]]
    Z = np.zeros(len(n))
    weights = [np.full(len(n), 0.5)] * 4
    energy = weighted_energy(A, b, weights, Z)
    for _ in range(iterations):
        normal_matrix = sum(a.T @ sp.diags(w) @ a for a, w in zip(A, weights, strict=True))
        right_side = sum(a.T @ (w * c) for a, w, c in zip(A, weights, b, strict=True))
        diagonal = np.maximum(normal_matrix.diagonal(), 1e-5)
        Z, _ = cg(
            normal_matrix,
            right_side,
            x0=Z,
            M=sp.diags(1 / diagonal),
            maxiter=CG_ITERATIONS,
            rtol=CG_TOLERANCE,
        )
        changes = [(a @ Z) ** 2 for a in A]
        to_right = expit(k * (changes[1] - changes[0]))
        downwards = expit(k * (changes[3] - changes[2]))
        weights = [to_right, 1 - to_right, downwards, 1 - downwards]
        before, energy = energy, weighted_energy(A, b, weights, Z)
        if not np.isfinite(energy):
            raise DivergenceError("normal integration met a non-finite value")
        if abs(energy - before) < tolerance * before:
            break
    depth = np.full(mask.shape, np.nan)
    depth[mask] = np.exp(centred_by_part(Z, right, down))
    return depth


def difference(mask: Bool[np.ndarray, "H W"], rows: int, columns: int) -> sp.csr_matrix:
    """Z(neighbour) - Z(pixel) of the mask's pixels, as a matrix; zero without a neighbour."""
    number = np.full(mask.shape, -1)
    number[mask] = np.arange(mask.sum())
    padded = np.pad(number, 1, constant_values=-1)
    height, width = mask.shape
    neighbour = padded[1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width][mask]
    pixel = np.flatnonzero(neighbour >= 0)
    neighbour = neighbour[pixel]
    ones = np.ones(len(pixel))
    return sp.csr_matrix(
        (
            np.concatenate([ones, -ones]),
            (np.concatenate([pixel, pixel]), np.concatenate([neighbour, pixel])),
        ),
        shape=(mask.sum(),) * 2,
    )


def weighted_energy(
    A: list[sp.csr_matrix],
    b: list[Float[np.ndarray, "N"]],
    weights: list[Float[np.ndarray, "N"]],
    Z: Float[np.ndarray, "N"],
) -> float:
    """Sum of w (A Z - b)^2 over pixels and neighbours."""
    return float(sum((w * (a @ Z - c) ** 2).sum() for a, c, w in zip(A, b, weights, strict=True)))


def centred_by_part(
    Z: Float[np.ndarray, "N"], right: sp.csr_matrix, down: sp.csr_matrix
) -> Float[np.ndarray, "N"]:
    """Z minus its median in each connected part."""
    links = abs(right) + abs(down)
    count, part = sp.csgraph.connected_components(links, directed=False)
    centred = Z.copy()
    for label in range(count):
        centred[part == label] -= np.median(Z[part == label])
    return centred
