"""How well a set of poses explains all views."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from pmni.registration.multiview.pose_set import PoseSet, Sight, mutual, partners
from pmni.registration.pairwise.scoring import Agreement, agreement
from pmni.registration.pairwise.silhouettes import tangency
from pmni.registration.views import Views

NEAR = float(np.cos(np.deg2rad(75.0)))
"""Viewing axes closer than this see the same surface; others can only contradict each other."""

FAR_WEIGHT, SILHOUETTE_WEIGHT, CONFLICT_WEIGHT = 0.5, 2.0, 2.0
"""Of the parts of an objective that count against its surface."""

COARSE, FINE = 0.1, 0.02
"""Object radii by which silhouettes fail to meet that count in full, before and after alignment."""

TOLERANCE, ANGLE = 0.0625, float(np.deg2rad(18.0))
"""Of depths (object radii) and normals (radians)."""

POINTS = 200
"""Surface points of each view that are compared."""

_LEAST_VISIBLE = 0.3  # added to the sum of a view's visible shares: few partners prove little


@dataclass(frozen=True)
class Objective:
    """How well a pose set explains the views, and its parts, each from 0 to 1."""

    total: float
    """What pose sets are ranked by: the surface, less the weighted others."""
    surface: float
    """Share of the visible points of near views that meet the same depth and normal, less 0.7 times
    those that meet another normal there."""
    conflict: float
    """Share of other normals among all that meet the same depth."""
    silhouette: float
    """Mean failure of silhouettes to meet, over all pairs, as a fraction of the tolerance."""
    far: float
    """Mean violation of masks and free space between views that are not near."""
    views: Float[np.ndarray, " V"]
    """Each view's own total."""


def evaluate(sight: Sight, poses: PoseSet, tolerance: float = FINE) -> Objective:
    """The objective; `sight` is unscaled.

    Integrated depths are wrong behind jumps, so near views are not blamed for free space that they
    violate: that the silhouettes meet says the same without depths.
    """
    count = len(poses.rotations)
    cosines = poses.axes_cosines()
    first, second = np.nonzero(np.triu(mutual(partners(cosines))))
    R, t = poses.relative(first, second)
    parts = pair_parts(sight.scaled(poses.scales), first, second, R, t, tolerance)
    sums = np.zeros((len(parts), count, count))
    sums[:, first, second] = parts
    sums += sums.swapaxes(-1, -2)
    of_view = sums.sum(-1)
    total, surface, conflict, silhouette, far = _scores(of_view.sum(-1, keepdims=True) / 2)[:, 0]
    return Objective(
        float(total),
        float(surface),
        float(conflict),
        float(silhouette),
        float(far),
        _scores(of_view)[0],
    )


def pair_parts(
    sight: Sight,
    first: Int[np.ndarray, " K"],
    second: Int[np.ndarray, " K"],
    R: Float[np.ndarray, "K 3 3"],
    t: Float[np.ndarray, "K 3"],
    tolerance: float,
) -> Float[np.ndarray, "7 K"]:
    """What the objective is made of, for each pair: good, conflict and visible shares if the views
    are near; missed silhouettes, and whether they could meet; violation, and whether the views are
    far. `sight` is scaled."""
    found = compare(sight.views, first, second, R, t)
    met = tangency(sight.hulls, sight.centres, sight.views.radius, first, second, R, t)
    missed = np.minimum(np.abs(met.residuals) / tolerance, 1).mean(1)
    near = R[:, 2, 2] > NEAR
    return np.stack(
        [
            near * _array(found.good),
            near * _array(found.conflict),
            near * _array(found.visible),
            met.valid * missed,
            met.valid,
            ~near * _array(found.violation()),
            ~near,
        ]
    )


def _scores(sums: Float[np.ndarray, "7 N"]) -> Float[np.ndarray, "5 N"]:
    """Total, surface, conflict, silhouette, far of sums over pairs."""
    good, conflict, visible, missed, pairs, violation, far_pairs = sums
    surface = (good - 0.7 * conflict) / (visible + _LEAST_VISIBLE)
    other = conflict / (good + conflict + _LEAST_VISIBLE)
    silhouette = missed / pairs.clip(1)
    far = violation / far_pairs.clip(1)
    total = surface - CONFLICT_WEIGHT * other - SILHOUETTE_WEIGHT * silhouette - FAR_WEIGHT * far
    return np.stack([total, surface, other, silhouette, far])


def view_scores(
    now: Sight,
    poses: PoseSet,
    view: int,
    R: Float[np.ndarray, "C 3 3"],
    t: Float[np.ndarray, "C 3"],
    tolerance: float,
) -> Float[np.ndarray, " C"]:
    """The total of one view for each of several poses, against all other views as they are."""
    cosines = R[:, 2] @ poses.rotations[:, 2].T
    cosines[:, view] = -np.inf
    used = partners(cosines)
    used[:, view] = False
    place, other = np.nonzero(used)
    relative = poses.rotations[other] @ R[place].swapaxes(-1, -2)
    shift = poses.translations[other] - (relative @ t[place, :, None])[..., 0]
    parts = pair_parts(now, np.full(len(other), view), other, relative, shift, tolerance)
    sums = np.zeros((len(parts), *used.shape))
    sums[:, place, other] = parts
    return _scores(sums.sum(-1))[0]


def compare(
    views: Views,
    source: Int[np.ndarray, " K"],
    target: Int[np.ndarray, " K"],
    R: Float[np.ndarray, "K 3 3"],
    t: Float[np.ndarray, "K 3"],
    tolerance: float = TOLERANCE,
    angle: float = ANGLE,
) -> Agreement:
    """`agreement` of relative poses that are NumPy arrays, by POINTS points of each view."""
    device = views.device
    return agreement(
        views,
        torch.from_numpy(source).to(device),
        torch.from_numpy(target).to(device),
        torch.from_numpy(R).float().to(device),
        torch.from_numpy(t).float().to(device),
        tolerance,
        angle,
        POINTS,
    )


def _array(values: torch.Tensor) -> Float[np.ndarray, " K"]:
    return values.double().cpu().numpy()
