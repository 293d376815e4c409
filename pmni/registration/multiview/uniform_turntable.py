"""Poses on a uniform turntable (equal steps) whose axis, or whose order of views, is known."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pmni.registration.multiview.averaging import average_translations
from pmni.registration.multiview.circular_ordering import circular_orderings, neighbour_orderings
from pmni.registration.multiview.graph import pair_graph
from pmni.registration.multiview.joint_alignment import align_jointly
from pmni.registration.multiview.objective import compare, evaluate_poses
from pmni.registration.multiview.pose_set import PairingContext, PoseSet
from pmni.registration.multiview.turntable import rotation_about
from pmni.registration.pairwise.epipolar_tangency import tangency
from pmni.registration.pairwise.support_functions import (
    SearchGrid,
    SupportFunctions,
    cells_of,
    fibonacci_sphere,
    search_grid,
)

PAIRS_PER_AXIS = 16
"""Pairs by which each axis of the search is scored."""
RELATIVE_POSES_AT_ONCE = 4096
"""Relative poses whose translations are solved for together; bounds the memory."""


def order_views(context: PairingContext, axis: Float[np.ndarray, "3"], seed: int) -> PoseSet:
    """All views on a uniform turntable about a known axis (camera frame), in their best order.

    The circular ordering is a quadratic assignment of pairwise gains. The gains of an object that
    is nearly one of revolution are nearly as large in wrong orders: the best orderings are aligned
    briefly and judged by all views together, and so are the neighbours of the best one, as long as
    one of them is better.
    """
    settings = context.settings.multiview.turntable
    gains = _gains(context, axis)
    tried: dict[bytes, tuple[float, PoseSet]] = {}

    def total(positions: Int[np.ndarray, " V"]) -> float:
        """The objective of the ordering after a brief alignment."""
        if positions.tobytes() not in tried:
            poses = uniform_poses(context, axis, positions)
            poses = align_jointly(context, poses, settings.alignment_iterations)
            objective = evaluate_poses(context, poses, settings.alignment_tolerance)
            tried[positions.tobytes()] = objective.total, poses
        return tried[positions.tobytes()][0]

    best = max(circular_orderings(gains, settings, seed), key=total)
    for _ in range(settings.rounds):
        neighbours = neighbour_orderings(gains, best, settings.neighbours, seed)
        better = max([best, *neighbours], key=total)
        if better is best:
            break
        best = better
    return align_jointly(context, tried[best.tobytes()][1])


def _gains(context: PairingContext, axis: Float[np.ndarray, "3"]) -> Float[np.ndarray, "V V V"]:
    """Gain of a view being d steps ahead of another, for all d; 0 if the views are not near."""
    count = len(context.centres)
    reach = _reach(context, axis)
    first, second = np.triu_indices(count, 1)
    steps = np.concatenate([-np.arange(1, reach + 1)[::-1], np.arange(1, reach + 1)])
    pair, step = (
        grid.reshape(-1) for grid in np.meshgrid(np.arange(len(first)), steps, indexing="ij")
    )
    R = rotation_about(axis, step * (2 * np.pi / count))
    t = translations_of(context, first[pair], second[pair], R)
    gains = np.zeros((count, count, count))
    pair_gains = _pair_gains(context, first[pair], second[pair], R, t)
    np.add.at(gains, (first[pair], second[pair], step % count), pair_gains)
    np.add.at(gains, (second[pair], first[pair], -step % count), pair_gains)
    return gains


def in_given_order(context: PairingContext) -> list[PoseSet]:
    """The views in their given order, in equal steps about axes that are searched on the sphere.

    Several axes that are well apart are returned, since errors of normals can make a wrong one the
    best.
    """
    settings = context.settings.multiview.turntable
    count = len(context.centres)
    axes = fibonacci_sphere(settings.axes)
    start = np.linspace(0, count, PAIRS_PER_AXIS, endpoint=False).astype(int)
    apart = 1 + np.arange(len(start)) % max(1, min(3, count // 4))
    which, pair = (
        grid.reshape(-1)
        for grid in np.meshgrid(np.arange(settings.axes), np.arange(len(start)), indexing="ij")
    )
    step = 2 * np.pi / count
    R = np.concatenate([rotation_about(axis, apart * step) for axis in axes])
    first, second = start[pair], (start[pair] + apart[pair]) % count
    t = translations_of(context, first, second, R)
    pair_gains = _pair_gains(context, first, second, R, t)
    scores = np.bincount(which, pair_gains, minlength=settings.axes)
    separation = float(np.cos(np.deg2rad(settings.axis_separation_deg)))
    best = []
    for _ in range(settings.tried_axes):
        best.append(axes[scores.argmax()])
        scores = np.where(axes @ best[-1] < separation, scores, -np.inf)
    return [uniform_poses(context, axis, np.arange(count)) for axis in best]


def in_given_order_upright(context: PairingContext) -> list[PoseSet]:
    """The views in their given order, in equal steps in either direction about the vertical axis of
    upright cameras at several elevations."""
    count = len(context.centres)
    tilts = np.deg2rad(context.settings.multiview.turntable.elevations_deg)
    axes = np.stack([np.zeros_like(tilts), np.cos(tilts), np.sin(tilts)], 1)
    return [uniform_poses(context, axis, np.arange(count)) for axis in (*axes, *-axes)]


def uniform_poses(
    context: PairingContext, axis: Float[np.ndarray, "3"], positions: Int[np.ndarray, " V"]
) -> PoseSet:
    """Poses of views at given positions among V equal steps; translations of near pairs are
    averaged."""
    count = len(positions)
    rotations = rotation_about(axis, positions * (2 * np.pi / count))
    first, second = np.triu_indices(count, 1)
    apart = np.abs((positions[second] - positions[first] + count // 2) % count - count // 2)
    near = apart <= _reach(context, axis)
    first, second = first[near], second[near]
    R = rotations[second] @ rotations[first].swapaxes(-1, -2)
    t = translations_of(context, first, second, R)
    weights = np.ones(len(R))
    graph = pair_graph(count, np.stack([first, second], 1), R, t, weights, weights)
    scale = context.settings.multiview.turntable.support_scale * context.views.radius
    translations = average_translations(graph, rotations[None], context.centres, scale)[0]
    return PoseSet(rotations, translations, np.ones(count))


def _reach(context: PairingContext, axis: Float[np.ndarray, "3"]) -> int:
    """Largest number of steps between near views on a turntable about an axis, at least one."""
    settings, count = context.settings.multiview, len(context.centres)
    steps = np.arange(1, min(settings.turntable.max_steps, max(count // 2, 1)) + 1)
    threshold = np.cos(np.deg2rad(settings.objective.near_deg))
    near = rotation_about(axis, steps * (2 * np.pi / count))[:, 2, 2] > threshold
    return max(1, int(near.sum()))


def _pair_gains(
    context: PairingContext,
    first: Int[np.ndarray, " K"],
    second: Int[np.ndarray, " K"],
    R: Float[np.ndarray, "K 3 3"],
    t: Float[np.ndarray, "K 3"],
) -> Float[np.ndarray, " K"]:
    """Gains of relative poses: surface evidence minus the gap of tangent planes, minus the fraction
    of points with another normal, in which the steps of an object that is nearly one of revolution
    still differ.
    """
    settings = context.settings.multiview
    planes = tangency(context.hulls, context.centres, context.views.radius, first, second, R, t)
    tolerance = settings.objective.coarse_tolerance
    gap = planes.valid * np.minimum(np.abs(planes.residuals) / tolerance, 1).mean(1)
    scales = settings.turntable.depth_tolerance, settings.turntable.angle_deg
    overlap = compare(context, first, second, R, t, *scales)
    conflict = overlap.conflict / (overlap.good + overlap.conflict + 0.05)
    surface = overlap.normalised() - settings.turntable.conflict_weight * conflict
    return surface.double().cpu().numpy() - gap


def translations_of(
    context: PairingContext,
    first: Int[np.ndarray, " K"],
    second: Int[np.ndarray, " K"],
    R: Float[np.ndarray, "K 3 3"],
) -> Float[np.ndarray, "K 3"]:
    """Translations of relative poses with known rotations, from partial support functions."""
    views, settings = context.views, context.settings
    grid = search_grid(settings.pairwise.search, views.device)
    scale = settings.multiview.turntable.support_scale * views.radius
    inputs = [torch.from_numpy(x).to(views.device) for x in (first, second, R.astype(np.float32))]
    parts = [
        _shift(grid, context.supports, i, j, rotation, scale)
        for i, j, rotation in zip(
            *(array.split(RELATIVE_POSES_AT_ONCE) for array in inputs), strict=True
        )
    ]
    shift = torch.cat(parts).double().cpu().numpy()
    return shift + context.centres[second] - (R @ context.centres[first, :, None])[..., 0]


def _shift(
    grid: SearchGrid,
    supports: SupportFunctions,
    first: Int[Tensor, " K"],
    second: Int[Tensor, " K"],
    R: Float[Tensor, "K 3 3"],
    scale: float,
) -> Float[Tensor, "K 3"]:
    """Shift t of the views' centres: reweighted least squares of h_j(u) - h_i(R^T u) = t . u."""
    directions = grid.directions
    back = directions @ R  # rows R^T u
    difference = (
        supports.values[second] - supports.tables[first[:, None], cells_of(back, grid.settings)]
    )
    facing = (back[..., 2] < grid.settings.max_facing_z).float()
    outer = (directions[:, :, None] * directions[:, None]).flatten(1)
    t = torch.zeros_like(R[:, 0])
    for iteration in range(4):
        residual = difference - t @ directions.T
        robust = 1.0 if iteration == 0 else 1 / (1 + (residual / scale) ** 2)
        weight = facing * robust
        normal = (weight @ outer).reshape(-1, 3, 3) + 1e-3 * torch.eye(3, device=R.device)
        t = torch.linalg.solve(normal, (weight * difference) @ directions)
    return t
