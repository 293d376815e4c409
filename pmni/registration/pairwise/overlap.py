"""The overlap score of two views under a relative pose: dense, from normals, depths and masks."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pmni.config.registration import OverlapSettings
from pmni.registration.working_views import UNOBSERVED, WorkingViews

POINTS_AT_ONCE = 1 << 17
"""Most points of all relative poses that are compared together; bounds the memory."""


@dataclass(frozen=True)
class OverlapScore:
    """Fractions of a view's surface points, seen from the other view, for K relative poses.

    Each is the mean of both directions.
    """

    settings: OverlapSettings
    good: Float[Tensor, " K"]
    """Visible, at the depth that the other view observes there, with the same normal."""
    conflict: Float[Tensor, " K"]
    """Visible and at the same depth with another normal."""
    outside: Float[Tensor, " K"]
    """Outside the other view's mask."""
    in_front: Float[Tensor, " K"]
    """In front of the surface that the other view observes: a free-space violation."""
    back: Float[Tensor, " K"]
    """Facing away from the other view and yet on the surface that it observes."""
    behind: Float[Tensor, " K"]
    """Facing the other view but behind the surface that it observes: occluded, or wrong."""
    visible: Float[Tensor, " K"]
    """Facing the other view."""

    def raw(self) -> Float[Tensor, " K"]:
        """A score that rewards overlap, at most 1, by which the poses of one pair are ranked."""
        conflict = self.settings.conflict_weight * self.conflict
        return self.good - conflict - self.violation() - 0.5 * self.back - 0.3 * self.behind

    def evidence(self) -> Float[Tensor, " K"]:
        """Points for a pose minus points against it, violations counted twice; may be summed over
        pairs."""
        conflict = self.settings.conflict_weight * self.conflict
        return self.good - conflict - 2 * self.violation() - 0.3 * self.back - 0.5 * self.behind

    def normalised(self) -> Float[Tensor, " K"]:
        """The evidence per visible surface, reduced where less than half is visible.

        It ranks poses of different pairs, and does not favour poses that fold a view's back onto
        the other's front to gain overlap.
        """
        visible = self.visible.clamp_min(self.settings.min_visible)
        return self.evidence() / visible * (visible / 0.5).clamp_max(1)

    def violation(self) -> Float[Tensor, " K"]:
        """Points outside the mask or in free space, which occlusion cannot explain."""
        return self.outside + self.in_front


def overlap_score(
    views: WorkingViews,
    source: Int[Tensor, " K"],
    target: Int[Tensor, " K"],
    R: Float[Tensor, "K 3 3"],
    t: Float[Tensor, "K 3"],
    tolerance: float,
    angle: float,
    settings: OverlapSettings,
    points: int | None = None,
) -> OverlapScore:
    """The overlap of views under x_target = R x_source + t, the mean of both directions.

    `tolerance` is the standard deviation of depths in object radii, `angle` that of normals in
    radians. At most `points` points of each view are compared.
    """
    count = views.points.shape[1] if points is None else min(points, views.points.shape[1])
    step = max(1, POINTS_AT_ONCE // count)
    inverse = R.transpose(1, 2)
    shift = -(inverse @ t[..., None])[..., 0]
    chunks = []
    for start in range(0, max(len(R), 1), step):
        k = slice(start, start + step)
        scales = (tolerance, angle, count, settings)
        forward = _directed(views, source[k], target[k], R[k], t[k], *scales)
        backward = _directed(views, target[k], source[k], inverse[k], shift[k], *scales)
        chunks.append((forward + backward) / 2)
    return OverlapScore(settings, *torch.cat(chunks, 1))


def _directed(
    views: WorkingViews,
    source: Int[Tensor, " K"],
    target: Int[Tensor, " K"],
    R: Float[Tensor, "K 3 3"],
    t: Float[Tensor, "K 3"],
    tolerance: float,
    angle: float,
    count: int,
    settings: OverlapSettings,
) -> Float[Tensor, "7 K"]:
    """The fields of `OverlapScore`, in their order, of the source's points seen by the target."""
    height, width = views.depth.shape[1:]
    x, y, z = (views.points[source, :count] @ R.transpose(1, 2) + t[:, None]).unbind(-1)
    nx, ny, nz = (views.point_normals[source, :count] @ R.transpose(1, 2)).unbind(-1)
    K = views.intrinsics[target]
    u = (K[:, 0, 0, None] * x / z + K[:, 0, 2, None]).round()
    v = (K[:, 1, 1, None] * y / z + K[:, 1, 2, None]).round()
    column, row = u.clamp(0, width - 1), v.clamp(0, height - 1)
    beyond = (u - column).abs() + (v - row).abs()
    pixel = (target[:, None] * height + row.long()) * width + column.long()
    mx, my, mz, depth, signed = views.maps[pixel].unbind(-1)
    inside = (signed < 0) & (beyond == 0)

    away = 1 / (x * x + y * y + z * z).sqrt()
    facing = -(nx * x + ny * y + nz * z) * away
    visible = facing > settings.min_facing
    # depth errors of a surface seen at a grazing angle are larger
    cosine = (-(mx * x + my * y + mz * z) * away).clamp(0.2, 1)
    scale = tolerance * views.radius * (1 + 0.5 * (1 - cosine * cosine).sqrt() / cosine)
    relative = (z - depth) / scale
    near = (-0.5 * relative * relative).exp() * (inside & (relative.abs() < 2))
    turn = (2 - 2 * (nx * mx + ny * my + nz * mz)) / angle**2  # squared chord: about the angle's
    good = near * visible * (-0.5 * turn).exp()
    conflict = near * visible * (1 - (-0.125 * turn).exp())
    excess = (signed + beyond - settings.silhouette_tolerance) / settings.silhouette_span
    outside = excess.clamp(0, 1) * ~inside * (signed != UNOBSERVED)
    in_front = (-0.5 * relative - 0.75).clamp(0, 1) * inside
    back = near * ~visible
    behind = inside & visible & (relative > 2)
    parts = [good, conflict, outside, in_front, back, behind.float(), visible.float()]
    return torch.stack([part.mean(1) for part in parts])
