"""The objective: how well poses of all views explain the views."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from pmni.config.registration import ObjectiveSettings
from pmni.registration.multiview.pose_set import PairingContext, PoseSet, mutual, partners
from pmni.registration.pairwise.epipolar_tangency import tangency
from pmni.registration.pairwise.overlap import OverlapScore, overlap_score


@dataclass(frozen=True)
class Objective:
    """How well a pose set explains the views, with its parts, each from 0 to 1."""

    total: float
    """The surface minus the weighted others, by which pose sets are ranked."""
    surface: float
    """Fraction of the visible points of near views that meet the same depth and normal, minus 0.7
    times those that meet another normal there."""
    conflict: float
    """Fraction of other normals among all that meet the same depth."""
    silhouette: float
    """Mean gap between tangent planes over all pairs, as a fraction of the tolerance."""
    far: float
    """Mean violation of masks and free space between views that are not near."""
    views: Float[np.ndarray, " V"]
    """Each view's own total."""


def evaluate_poses(
    context: PairingContext, poses: PoseSet, tolerance: float | None = None
) -> Objective:
    """The objective of a pose set; `context` is unscaled, `tolerance` by default the fine one.

    Integrated depths are wrong behind discontinuities, so free-space violations of near views do
    not count: the tangency of their silhouettes says the same without depths.
    """
    settings = context.settings.multiview.objective
    tolerance = settings.fine_tolerance if tolerance is None else tolerance
    count = len(poses.rotations)
    cosines = poses.axes_cosines()
    first, second = np.nonzero(np.triu(mutual(partners(cosines))))
    R, t = poses.relative(first, second)
    parts = pair_parts(context.scaled(poses.scales), first, second, R, t, tolerance)
    sums = np.zeros((len(parts), count, count))
    sums[:, first, second] = parts
    sums += sums.swapaxes(-1, -2)
    by_view = sums.sum(-1)
    overall = _scores(by_view.sum(-1, keepdims=True) / 2, settings)[:, 0]
    total, surface, conflict, silhouette, far = overall
    return Objective(
        float(total),
        float(surface),
        float(conflict),
        float(silhouette),
        float(far),
        _scores(by_view, settings)[0],
    )


def pair_parts(
    scaled: PairingContext,
    first: Int[np.ndarray, " K"],
    second: Int[np.ndarray, " K"],
    R: Float[np.ndarray, "K 3 3"],
    t: Float[np.ndarray, "K 3"],
    tolerance: float,
) -> Float[np.ndarray, "7 K"]:
    """The terms of the objective for each pair: good, conflicting and visible fractions of near
    views; the gap of tangent planes, and whether there are any; the violation between far views,
    and whether the views are far."""
    overlap = compare(scaled, first, second, R, t)
    planes = tangency(scaled.hulls, scaled.centres, scaled.views.radius, first, second, R, t)
    gap = np.minimum(np.abs(planes.residuals) / tolerance, 1).mean(1)
    near = R[:, 2, 2] > np.cos(np.deg2rad(scaled.settings.multiview.objective.near_deg))
    return np.stack(
        [
            near * _array(overlap.good),
            near * _array(overlap.conflict),
            near * _array(overlap.visible),
            planes.valid * gap,
            planes.valid,
            ~near * _array(overlap.violation()),
            ~near,
        ]
    )


def _scores(
    sums: Float[np.ndarray, "7 N"], settings: ObjectiveSettings
) -> Float[np.ndarray, "5 N"]:
    """Total, surface, conflict, silhouette, far of sums of `pair_parts` over pairs."""
    good, conflict, visible, gap, pairs, violation, far_pairs = sums
    surface = (good - 0.7 * conflict) / (visible + settings.min_visible)
    conflict_ratio = conflict / (good + conflict + settings.min_visible)
    silhouette = gap / pairs.clip(1)
    far = violation / far_pairs.clip(1)
    total = (
        surface
        - settings.conflict_weight * conflict_ratio
        - settings.silhouette_weight * silhouette
        - settings.far_weight * far
    )
    return np.stack([total, surface, conflict_ratio, silhouette, far])


def view_scores(
    scaled: PairingContext,
    poses: PoseSet,
    view: int,
    R: Float[np.ndarray, "C 3 3"],
    t: Float[np.ndarray, "C 3"],
    tolerance: float,
) -> Float[np.ndarray, " C"]:
    """The total of one view at each of C poses, all other views staying at theirs."""
    cosines = R[:, 2] @ poses.rotations[:, 2].T
    cosines[:, view] = -np.inf
    used = partners(cosines)
    used[:, view] = False
    candidate, other = np.nonzero(used)
    relative = poses.rotations[other] @ R[candidate].swapaxes(-1, -2)
    shift = poses.translations[other] - (relative @ t[candidate, :, None])[..., 0]
    parts = pair_parts(scaled, np.full(len(other), view), other, relative, shift, tolerance)
    sums = np.zeros((len(parts), *used.shape))
    sums[:, candidate, other] = parts
    return _scores(sums.sum(-1), scaled.settings.multiview.objective)[0]


def compare(
    context: PairingContext,
    source: Int[np.ndarray, " K"],
    target: Int[np.ndarray, " K"],
    R: Float[np.ndarray, "K 3 3"],
    t: Float[np.ndarray, "K 3"],
    depth_tolerance: float | None = None,
    angle_deg: float | None = None,
) -> OverlapScore:
    """The overlap score of relative poses that are NumPy arrays; scales by default those of the
    objective."""
    settings, device = context.settings.multiview.objective, context.views.device
    angle_deg = settings.angle_deg if angle_deg is None else angle_deg
    return overlap_score(
        context.views,
        torch.from_numpy(source).to(device),
        torch.from_numpy(target).to(device),
        torch.from_numpy(R).float().to(device),
        torch.from_numpy(t).float().to(device),
        settings.depth_tolerance if depth_tolerance is None else depth_tolerance,
        float(np.deg2rad(angle_deg)),
        context.settings.pairwise.overlap,
        settings.points,
    )


def _array(values: torch.Tensor) -> Float[np.ndarray, " K"]:
    return values.double().cpu().numpy()
