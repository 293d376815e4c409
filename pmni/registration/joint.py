"""All poses together: Gauss-Newton on the normals, depths and contours of all near pairs."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from pmni.registration.alignment import pair_equations
from pmni.registration.views import Views

NEAR = float(np.cos(np.deg2rad(65.0)))
"""Pairs whose viewing axes are closer than this take part."""

MOST_PARTNERS = 12
"""Of those, each view's closest ones and a few others, so that the work grows with the views."""

SIGMA_NORMAL = 0.15
SIGMA_DEPTH = (0.15, 0.075)
"""Object radii; shrinks over the iterations."""

POINTS = 250
"""Surface points of each view that are compared."""

_AT_ONCE = 16  # pairs whose equations are made together: they stay in the processor's cache
_DAMPING = 1e-3
_LARGEST_TURN, _LARGEST_SHIFT = 0.15, 0.2  # of a step: radians, object radii


def refine_jointly(
    views: Views,
    rotations: Float[np.ndarray, "V 3 3"],
    translations: Float[np.ndarray, "V 3"],
    iterations: int = 8,
) -> tuple[Float[np.ndarray, "V 3 3"], Float[np.ndarray, "V 3"]]:
    """World-to-camera poses after a number of damped Gauss-Newton steps.

    Each pose moves by a left perturbation about the object's centre in its camera; a pair's
    equations in the perturbation of its relative pose are carried over to both.
    """
    centres = views.centres.double().cpu().numpy()
    for iteration in range(iterations):
        progress = iteration / max(iterations - 1, 1)
        sigma_depth = SIGMA_DEPTH[0] * (SIGMA_DEPTH[1] / SIGMA_DEPTH[0]) ** progress
        first, second = near_pairs(rotations)
        R = rotations[second] @ rotations[first].swapaxes(-1, -2)
        t = translations[second] - (R @ translations[first, :, None])[..., 0]
        A, b = _equations(views, first, second, R, t, sigma_depth)
        offset = centres[second] - (R @ centres[first, :, None])[..., 0] - t
        step = _solve(len(rotations), first, second, A, b, carried(R, offset))
        shift, turn = step[:, :3], step[:, 3:]
        turn *= np.minimum(1, _LARGEST_TURN / np.linalg.norm(turn, axis=1).clip(1e-12))[:, None]
        largest = _LARGEST_SHIFT * views.radius
        shift *= np.minimum(1, largest / np.linalg.norm(shift, axis=1).clip(1e-12))[:, None]
        matrix = Rotation.from_rotvec(turn).as_matrix()
        rotations = matrix @ rotations
        about = translations - centres
        translations = (matrix @ about[..., None])[..., 0] + centres + shift
    return rotations, translations


def near_pairs(
    rotations: Float[np.ndarray, "V 3 3"],
) -> tuple[Int[np.ndarray, "K"], Int[np.ndarray, "K"]]:
    """The pairs i < j that take part: each view's closest partners, and every n-th of the rest."""
    cosines = rotations[:, 2] @ rotations[:, 2].T
    np.fill_diagonal(cosines, -np.inf)
    used = np.zeros(cosines.shape, bool)
    for view, order in enumerate(np.argsort(-cosines, axis=1, kind="stable")):
        near = order[cosines[view, order] > NEAR]
        if len(near) > MOST_PARTNERS:
            half = MOST_PARTNERS // 2
            rest = np.linspace(half, len(near) - 1, MOST_PARTNERS - half).astype(int)
            near = np.concatenate([near[:half], near[rest]])
        used[view, near] = True
    first, second = np.nonzero(np.triu(used | used.T))
    return first, second


def carried(
    R: Float[np.ndarray, "K 3 3"], offset: Float[np.ndarray, "K 3"]
) -> Float[np.ndarray, "K 6 6"]:
    """B in delta = B xi_i + xi_j: what view i's perturbation does to the relative pose R, t.

    Perturbations (translation, rotation vector) are about the centres c_i and c_j;
    `offset` = c_j - R c_i - t.
    """
    x, y, z = offset.T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    B = np.zeros((len(R), 6, 6))
    B[:, :3, :3] = B[:, 3:, 3:] = -R
    B[:, :3, 3:] = cross @ R
    return B


def _equations(
    views: Views,
    first: Int[np.ndarray, "K"],
    second: Int[np.ndarray, "K"],
    R: Float[np.ndarray, "K 3 3"],
    t: Float[np.ndarray, "K 3"],
    sigma_depth: float,
) -> tuple[Float[np.ndarray, "K 6 6"], Float[np.ndarray, "K 6"]]:
    device = views.device
    inputs = [
        torch.from_numpy(array).to(device)
        for array in (first, second, R.astype("f4"), t.astype("f4"))
    ]
    at_once = _AT_ONCE if device.type == "cpu" else len(first)
    parts = []
    for i, j, relative, shift in zip(*(array.split(at_once) for array in inputs), strict=True):
        parts.append(
            pair_equations(views, i, j, relative, shift, SIGMA_NORMAL, sigma_depth, POINTS)
        )
    A, b = (torch.cat([part[k] for part in parts]).double().cpu().numpy() for k in (0, 1))
    return A, b


def _solve(
    count: int,
    first: Int[np.ndarray, "K"],
    second: Int[np.ndarray, "K"],
    A: Float[np.ndarray, "K 6 6"],
    b: Float[np.ndarray, "K 6"],
    B: Float[np.ndarray, "K 6 6"],
) -> Float[np.ndarray, "V 6"]:
    """The perturbations of all poses; the damping also fixes the world's frame."""
    carry = B.swapaxes(-1, -2)
    matrix = np.zeros((count, count, 6, 6))
    right = np.zeros((count, 6))
    np.add.at(matrix, (first, first), carry @ A @ B)
    np.add.at(matrix, (first, second), carry @ A)
    np.add.at(matrix, (second, first), A @ B)
    np.add.at(matrix, (second, second), A)
    np.add.at(right, first, (carry @ b[..., None])[..., 0])
    np.add.at(right, second, b)
    system = matrix.swapaxes(1, 2).reshape(6 * count, 6 * count)
    diagonal = np.diag(system)
    system = system + np.diag(_DAMPING * diagonal + 1e-6 * (diagonal.mean() + 1e-12))
    return np.linalg.solve(system, right.reshape(-1)).reshape(count, 6)
