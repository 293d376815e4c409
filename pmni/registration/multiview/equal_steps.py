"""Poses on a turntable of equal steps whose axis, or whose order of views, is known."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pmni.registration.multiview.averaging import average_translations
from pmni.registration.multiview.graph import pair_graph
from pmni.registration.multiview.joint import refine_jointly
from pmni.registration.multiview.objective import COARSE, NEAR, compare, evaluate
from pmni.registration.multiview.pose_set import PoseSet, Sight
from pmni.registration.multiview.slots import assignments, neighbours
from pmni.registration.multiview.turntable import about
from pmni.registration.pairwise.silhouettes import tangency
from pmni.registration.pairwise.supports import (
    SearchGrid,
    Supports,
    cells_of,
    fibonacci_sphere,
    search_grid,
)

MOST_STEPS = 6
"""Between views that are compared."""

AXES = 800
"""On the sphere, of the search with known order: about 7 degrees apart."""

TRIED, APART = 4, float(np.cos(np.deg2rad(18.0)))
"""Of them, the best that are returned, and the cosine of how far they are apart."""

ELEVATIONS = (0.0, 15.0, 30.0, 45.0)
"""Of cameras that are held upright, degrees."""

TOLERANCE, ANGLE = 0.15, float(np.deg2rad(10.0))
"""Of depths (object radii), which are rough before alignment, and of normals (radians)."""

CONFLICT_WEIGHT = 5.0
"""Of the share of other normals."""

ALIGNMENT, ALIGNED = 2, 0.04
"""Iterations before an assignment is judged, and object radii that silhouettes may miss by then."""

NEIGHBOURS, ROUNDS = 16, 6
"""Of the best assignment, those that are judged, and how many times at most."""

_INLIER = 0.075  # object radii: scale of the robust weights of support functions
_PAIRS_PER_AXIS = 16


def by_slots(sight: Sight, axis: Float[np.ndarray, "3"], seed: int) -> PoseSet:
    """All views about a known axis (camera frame), at the places where they fit best, refined.

    Places by quadratic assignment of what pairs are worth. What is nearly a body of revolution is
    worth nearly as much in wrong orders: each of the best assignments is aligned a little and
    judged by all views together, and so are the neighbours of the best, as long as one is better.
    """
    gains = _gains(sight, axis)
    tried: dict[bytes, tuple[float, PoseSet]] = {}

    def total(slots: Int[np.ndarray, " V"]) -> float:
        """Of the aligned poses."""
        if slots.tobytes() not in tried:
            poses = refine_jointly(sight, about_axis(sight, axis, slots), ALIGNMENT)
            tried[slots.tobytes()] = evaluate(sight, poses, ALIGNED).total, poses
        return tried[slots.tobytes()][0]

    best = max(assignments(gains, seed), key=total)
    for _ in range(ROUNDS):
        better = max([best, *neighbours(gains, best, NEIGHBOURS, seed)], key=total)
        if better is best:
            break
        best = better
    return refine_jointly(sight, tried[best.tobytes()][1])


def _gains(sight: Sight, axis: Float[np.ndarray, "3"]) -> Float[np.ndarray, "V V V"]:
    """What it is worth that a view is so many steps ahead of another; 0 if they are not near."""
    count = len(sight.centres)
    reach = _reach(count, axis)
    first, second = np.triu_indices(count, 1)
    steps = np.concatenate([-np.arange(1, reach + 1)[::-1], np.arange(1, reach + 1)])
    pair, step = (
        grid.reshape(-1) for grid in np.meshgrid(np.arange(len(first)), steps, indexing="ij")
    )
    R = about(axis, step * (2 * np.pi / count))
    t = known_rotation(sight, first[pair], second[pair], R)
    gains = np.zeros((count, count, count))
    worth = _worth(sight, first[pair], second[pair], R, t)
    np.add.at(gains, (first[pair], second[pair], step % count), worth)
    np.add.at(gains, (second[pair], first[pair], -step % count), worth)
    return gains


def by_order(sight: Sight) -> list[PoseSet]:
    """The views in their order, in equal steps about an axis that is searched on the sphere.

    Those about the best axes that are well apart; normals with errors make a wrong one the best.
    """
    count = len(sight.centres)
    axes = fibonacci_sphere(AXES)
    start = np.linspace(0, count, _PAIRS_PER_AXIS, endpoint=False).astype(int)
    apart = 1 + np.arange(len(start)) % max(1, min(3, count // 4))
    which, pair = (
        grid.reshape(-1)
        for grid in np.meshgrid(np.arange(AXES), np.arange(len(start)), indexing="ij")
    )
    step = 2 * np.pi / count
    R = np.concatenate([about(axis, apart * step) for axis in axes])
    first, second = start[pair], (start[pair] + apart[pair]) % count
    worth = _worth(sight, first, second, R, known_rotation(sight, first, second, R))
    scores = np.bincount(which, worth, minlength=AXES)
    found = []
    for _ in range(TRIED):
        found.append(axes[scores.argmax()])
        scores = np.where(axes @ found[-1] < APART, scores, -np.inf)
    return [about_axis(sight, axis, np.arange(count)) for axis in found]


def by_order_upright(sight: Sight) -> list[PoseSet]:
    """The views in their order, in equal steps about the vertical axis of cameras that are held
    upright at one of some elevations, turning either way."""
    count = len(sight.centres)
    tilts = np.deg2rad(ELEVATIONS)
    axes = np.stack([np.zeros_like(tilts), np.cos(tilts), np.sin(tilts)], 1)
    return [about_axis(sight, axis, np.arange(count)) for axis in (*axes, *-axes)]


def about_axis(sight: Sight, axis: Float[np.ndarray, "3"], slots: Int[np.ndarray, " V"]) -> PoseSet:
    """Views at known places, their translations by averaging those of near pairs."""
    count = len(slots)
    rotations = about(axis, slots * (2 * np.pi / count))
    first, second = np.triu_indices(count, 1)
    away = np.abs((slots[second] - slots[first] + count // 2) % count - count // 2)
    near = away <= _reach(count, axis)
    first, second = first[near], second[near]
    R = rotations[second] @ rotations[first].swapaxes(-1, -2)
    t = known_rotation(sight, first, second, R)
    weights = np.ones(len(R))
    graph = pair_graph(count, np.stack([first, second], 1), R, t, weights, weights)
    scale = _INLIER * sight.views.radius
    translations = average_translations(graph, rotations[None], sight.centres, scale)[0]
    return PoseSet(rotations, translations, np.ones(count))


def _reach(count: int, axis: Float[np.ndarray, "3"]) -> int:
    """Steps up to which views about an axis are near, at least one."""
    steps = np.arange(1, min(MOST_STEPS, max(count // 2, 1)) + 1)
    near = about(axis, steps * (2 * np.pi / count))[:, 2, 2] > NEAR
    return max(1, int(near.sum()))


def _worth(
    sight: Sight,
    first: Int[np.ndarray, " K"],
    second: Int[np.ndarray, " K"],
    R: Float[np.ndarray, "K 3 3"],
    t: Float[np.ndarray, "K 3"],
) -> Float[np.ndarray, " K"]:
    """What speaks for relative poses: surface evidence, less the silhouettes' failure to meet, and
    less the share of points with another normal, in which the steps of a body that is nearly one
    of revolution still differ.
    """
    met = tangency(sight.hulls, sight.centres, sight.views.radius, first, second, R, t)
    missed = met.valid * np.minimum(np.abs(met.residuals) / COARSE, 1).mean(1)
    found = compare(sight.views, first, second, R, t, TOLERANCE, ANGLE)
    other = found.conflict / (found.good + found.conflict + 0.05)
    return (found.normalised() - CONFLICT_WEIGHT * other).double().cpu().numpy() - missed


def known_rotation(
    sight: Sight,
    first: Int[np.ndarray, " K"],
    second: Int[np.ndarray, " K"],
    R: Float[np.ndarray, "K 3 3"],
) -> Float[np.ndarray, "K 3"]:
    """Translations of relative poses of known rotation, from partial support functions."""
    views = sight.views
    grid = search_grid(views.device)
    inputs = [torch.from_numpy(x).to(views.device) for x in (first, second, R.astype(np.float32))]
    parts = [
        _shift(grid, sight.supports, i, j, turn, _INLIER * views.radius)
        for i, j, turn in zip(*(array.split(4096) for array in inputs), strict=True)
    ]
    shift = torch.cat(parts).double().cpu().numpy()
    return shift + sight.centres[second] - (R @ sight.centres[first, :, None])[..., 0]


def _shift(
    grid: SearchGrid,
    supports: Supports,
    first: Int[Tensor, " K"],
    second: Int[Tensor, " K"],
    R: Float[Tensor, "K 3 3"],
    scale: float,
) -> Float[Tensor, "K 3"]:
    """Of the views' centres: reweighted least squares of h_j(u) - h_i(R^T u) = t . u."""
    directions = grid.directions
    back = directions @ R  # rows R^T u
    difference = supports.values[second] - supports.tables[first[:, None], cells_of(back)]
    facing = (back[..., 2] < 0.1).float()
    outer = (directions[:, :, None] * directions[:, None]).flatten(1)
    t = torch.zeros_like(R[:, 0])
    for iteration in range(4):
        residual = difference - t @ directions.T
        robust = 1.0 if iteration == 0 else 1 / (1 + (residual / scale) ** 2)
        weight = facing * robust
        normal = (weight @ outer).reshape(-1, 3, 3) + 1e-3 * torch.eye(3, device=R.device)
        t = torch.linalg.solve(normal, (weight * difference) @ directions)
    return t
