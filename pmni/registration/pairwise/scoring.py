"""How well two views agree under a relative pose: a dense score of normals, depths and masks."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pmni.registration.views import UNSEEN, Views

POINTS_AT_ONCE = 1 << 17
"""Points of all relative poses that are compared together: bounds the memory."""

_FACING = 0.15  # cosine from which on a point counts as visible from the other view
_SILHOUETTE = (1.0, 4.0)  # working pixels outside the mask: forgiven, and from there to full cost
_LEAST_VISIBLE = 0.05


@dataclass(frozen=True)
class Agreement:
    """Shares of a view's surface points, seen from the other view, of K relative poses.

    Each is the mean of both directions.
    """

    good: Float[Tensor, " K"]
    """Visible, at the depth that the other view has there, with the same normal."""
    conflict: Float[Tensor, " K"]
    """Visible and at the same depth with another normal."""
    outside: Float[Tensor, " K"]
    """Outside the other view's mask."""
    in_front: Float[Tensor, " K"]
    """In front of the surface that the other view sees: in space that it sees to be free."""
    back: Float[Tensor, " K"]
    """Facing away from the other view and yet on the surface that it sees."""
    behind: Float[Tensor, " K"]
    """Facing the other view but behind its surface: occluded, or wrong."""
    visible: Float[Tensor, " K"]
    """Facing the other view."""

    def raw(self) -> Float[Tensor, " K"]:
        """A score that rewards overlap; at most 1. It ranks the poses of one pair."""
        return (
            self.good - 0.7 * self.conflict - self.violation() - 0.5 * self.back - 0.3 * self.behind
        )

    def evidence(self) -> Float[Tensor, " K"]:
        """For minus against, with violations counted twice: sums over pairs can be compared."""
        return (
            self.good
            - 0.7 * self.conflict
            - 2 * self.violation()
            - 0.3 * self.back
            - 0.5 * self.behind
        )

    def normalised(self) -> Float[Tensor, " K"]:
        """The evidence in a unit of visible surface, less where less than half is visible.

        It compares poses of different pairs, and does not favour those that fold a view's back
        onto the other's front to gain overlap.
        """
        visible = self.visible.clamp_min(_LEAST_VISIBLE)
        return self.evidence() / visible * (visible / 0.5).clamp_max(1)

    def violation(self) -> Float[Tensor, " K"]:
        """Outside the mask or in free space: what no visibility excuses."""
        return self.outside + self.in_front


def agreement(
    views: Views,
    source: Int[Tensor, " K"],
    target: Int[Tensor, " K"],
    R: Float[Tensor, "K 3 3"],
    t: Float[Tensor, "K 3"],
    tolerance: float,
    angle: float,
    points: int | None = None,
) -> Agreement:
    """The agreement of the views under x_target = R x_source + t, both directions' mean.

    `tolerance` of depths is a fraction of the object's radius, `angle` of normals in radians;
    both are standard deviations. `points` bounds how many of each view's points are compared.
    """
    count = views.points.shape[1] if points is None else min(points, views.points.shape[1])
    step = max(1, POINTS_AT_ONCE // count)
    inverse = R.transpose(1, 2)
    shift = -(inverse @ t[..., None])[..., 0]
    chunks = []
    for start in range(0, max(len(R), 1), step):
        k = slice(start, start + step)
        there = _directed(views, source[k], target[k], R[k], t[k], tolerance, angle, count)
        back = _directed(views, target[k], source[k], inverse[k], shift[k], tolerance, angle, count)
        chunks.append((there + back) / 2)
    return Agreement(*torch.cat(chunks, 1))


def _directed(
    views: Views,
    source: Int[Tensor, " K"],
    target: Int[Tensor, " K"],
    R: Float[Tensor, "K 3 3"],
    t: Float[Tensor, "K 3"],
    tolerance: float,
    angle: float,
    count: int,
) -> Float[Tensor, "7 K"]:
    """The fields of `Agreement`, in their order, of the source's points seen by the target."""
    height, width = views.depth.shape[1:]
    x, y, z = (views.points[source, :count] @ R.transpose(1, 2) + t[:, None]).unbind(-1)
    nx, ny, nz = (views.point_normals[source, :count] @ R.transpose(1, 2)).unbind(-1)
    K = views.intrinsics[target]
    u = (K[:, 0, 0, None] * x / z + K[:, 0, 2, None]).round()
    v = (K[:, 1, 1, None] * y / z + K[:, 1, 2, None]).round()
    column, row = u.clamp(0, width - 1), v.clamp(0, height - 1)
    beyond = (u - column).abs() + (v - row).abs()
    pixel = (target[:, None] * height + row.long()) * width + column.long()
    seen = views.maps[pixel]
    mx, my, mz, depth, signed = seen.unbind(-1)
    inside = (signed < 0) & (beyond == 0)

    away = 1 / (x * x + y * y + z * z).sqrt()
    facing = -(nx * x + ny * y + nz * z) * away
    visible = facing > _FACING
    # depth errors of a surface seen at a grazing angle are larger
    cosine = (-(mx * x + my * y + mz * z) * away).clamp(0.2, 1)
    scale = tolerance * views.radius * (1 + 0.5 * (1 - cosine * cosine).sqrt() / cosine)
    relative = (z - depth) / scale
    near = (-0.5 * relative * relative).exp() * (inside & (relative.abs() < 2))
    turn = (2 - 2 * (nx * mx + ny * my + nz * mz)) / angle**2  # squared chord: about the angle's
    good = near * visible * (-0.5 * turn).exp()
    conflict = near * visible * (1 - (-0.125 * turn).exp())
    forgiven, span = _SILHOUETTE
    outside = ((signed + beyond - forgiven) / span).clamp(0, 1) * ~inside * (signed != UNSEEN)
    in_front = (-0.5 * relative - 0.75).clamp(0, 1) * inside
    back = near * ~visible
    behind = inside & visible & (relative > 2)
    parts = [good, conflict, outside, in_front, back, behind.float(), visible.float()]
    return torch.stack([part.mean(1) for part in parts])
