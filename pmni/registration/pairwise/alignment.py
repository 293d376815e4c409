"""Alignment of pairs of views: Gauss-Newton on normals, depths and masks, many pairs at a time.

A point of one view is moved by the relative pose and projected into the other view, where its
normal, depth and distance from the mask are compared with the maps, in both directions. Derivatives
go through the gradients of the maps.
"""

from dataclasses import dataclass

import pypose
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pmni.config.registration import AlignmentSettings, AlignmentStage
from pmni.registration.working_views import WorkingViews

POINTS_AT_ONCE = 1 << 14
"""Most points of all relative poses that are aligned together: they stay in a processor's cache."""


@dataclass(frozen=True)
class Comparison:
    """Points of K source views compared with the maps of their target views, with derivatives.

    Channels: the difference of the normals (3), of the depths (moved - observed), and the distance
    outside the mask in downsampled pixels. Derivatives are with respect to a left perturbation
    (rotation vector, translation) of the points in the target's frame about a given centre.
    """

    residuals: Float[Tensor, "K 5 P"]
    jacobian: Float[Tensor, "K 6 5 P"]
    facing: Float[Tensor, "K P"]
    """Cosine between the moved normal and the direction to the target's camera."""
    observed_facing: Float[Tensor, "K P"]
    """The same of the normal that the target observes there."""


def compare(
    views: WorkingViews,
    source: Int[Tensor, " K"],
    target: Int[Tensor, " K"],
    R: Float[Tensor, "K 3 3"],
    t: Float[Tensor, "K 3"],
    centre: Float[Tensor, "K 3"],
    points: int,
) -> Comparison:
    """The first `points` points of the source views, moved by x -> R x + t, compared with the
    targets' maps (bilinear). `centre` is the point about which the perturbation rotates, in the
    target's frame.
    """
    moved = R @ views.points[source, :points].transpose(1, 2) + t[..., None]
    normals = R @ views.point_normals[source, :points].transpose(1, 2)
    K = views.intrinsics[target][..., None]
    x, y, z = moved.unbind(1)
    across, down = K[:, 0, 0] / z, K[:, 1, 1] / z  # pixels for a unit of length
    observed, du, dv = _bilinear(views, target, across * x + K[:, 0, 2], down * y + K[:, 1, 2])

    jacobian = torch.empty(
        len(R), 6, *observed.shape[1:], device=observed.device, dtype=observed.dtype
    )
    wx, wy, wz, dx, dy, dz = jacobian.unbind(1)
    torch.mul(du, across[:, None], out=dx)
    torch.mul(dv, down[:, None], out=dy)
    torch.mul(dx, (-x / z)[:, None], out=dz).addcmul_(dy, (-y / z)[:, None])
    jacobian[:, 3:, :4].neg_()
    dz[:, 3] += 1
    ax, ay, az = (moved - centre[..., None])[:, :, None].unbind(1)
    torch.mul(dz, ay, out=wx).addcmul_(dy, az, value=-1)
    torch.mul(dx, az, out=wy).addcmul_(dz, ax, value=-1)
    torch.mul(dy, ax, out=wz).addcmul_(dx, ay, value=-1)
    # the moved normal n turns too: d n = w x n
    nx, ny, nz = normals.unbind(1)
    wy[:, 0] += nz
    wz[:, 0] -= ny
    wx[:, 1] -= nz
    wz[:, 1] += nx
    wx[:, 2] += ny
    wy[:, 2] -= nx

    residuals = torch.cat([normals, z[:, None], torch.zeros_like(z)[:, None]], 1) - observed
    residuals[:, 4].neg_()
    rays = moved * (x * x + y * y + z * z).rsqrt()[:, None]
    facing = -(normals * rays).sum(1)
    return Comparison(residuals, jacobian, facing, -(observed[:, :3] * rays).sum(1))


def _bilinear(
    views: WorkingViews, target: Int[Tensor, " K"], u: Float[Tensor, "K P"], v: Float[Tensor, "K P"]
) -> tuple[Float[Tensor, "K 5 P"], Float[Tensor, "K 5 P"], Float[Tensor, "K 5 P"]]:
    """The maps at pixels (u, v) and their derivatives by u and v.

    Beyond the images the maps go on as at the border, and the distance from the mask grows.
    """
    height, width = views.depth.shape[1:]
    inner_u, inner_v = u.clamp(0, width - 1.001), v.clamp(0, height - 1.001)
    column, row = inner_u.long(), inner_v.long()
    a, b = (inner_u - column)[:, None], (inner_v - row)[:, None]
    pixel = (target[:, None] * height + row) * width + column
    top_left, top_right, low_left, low_right = (
        views.maps[pixel + offset].transpose(1, 2).contiguous()
        for offset in (0, 1, width, width + 1)
    )
    left, right = low_left - top_left, low_right - top_right
    dv = torch.lerp(left, right, a)
    du = top_right.sub_(top_left)
    values = top_left.addcmul_(a, du).addcmul_(b, dv)
    du = du.addcmul_(b, right.sub_(left))
    beyond_u, beyond_v = u - inner_u, v - inner_v
    du *= (beyond_u == 0)[:, None]
    dv *= (beyond_v == 0)[:, None]
    values[:, 4] += beyond_u.abs() + beyond_v.abs()
    du[:, 4] += beyond_u.sign()
    dv[:, 4] += beyond_v.sign()
    return values, du, dv


def _equations(
    compared: Comparison, sigma_normal: float, sigma_depth: float, settings: AlignmentSettings
) -> tuple[Float[Tensor, "K 6 6"], Float[Tensor, "K 6"], Float[Tensor, " K"]]:
    """Robustly weighted normal equations A, b and costs; `sigma_depth` in the unit of depth.

    Geman-McClure weights: where depths differ by much (occlusion, a wrong discontinuity) the
    normals do not count either.
    """
    residuals = compared.residuals
    outside = residuals[:, 4]
    slant = compared.observed_facing.clamp_min(0.3)
    depth = residuals[:, 3] * compared.observed_facing.clamp_min(0.15) / sigma_depth
    turn = residuals[:, :3].square().sum(1) / sigma_normal**2
    matched = ((compared.facing > settings.min_facing) & (outside < 0)) / (
        1 + depth * depth
    ).square()
    for_normal = matched / (1 + turn / 4).square() / sigma_normal**2
    for_depth = settings.depth_weight * matched * (slant / sigma_depth).square()
    excess = (outside - settings.silhouette_dead_zone).clamp(0, settings.silhouette_limit)
    active = (excess > 0) & (excess < settings.silhouette_limit)
    relative = outside.clamp_min(0) / settings.silhouette_sigma
    for_outside = settings.silhouette_weight * active / (1 + relative * relative / 9)
    for_outside = for_outside / settings.silhouette_sigma**2

    weights = torch.stack([for_normal, for_normal, for_normal, for_depth, for_outside], 1)
    residuals = torch.cat([residuals[:, :4], excess[:, None]], 1).flatten(1)
    jacobian = compared.jacobian.flatten(2)
    weighted = jacobian * weights.flatten(1)[:, None]
    A = weighted @ jacobian.transpose(1, 2)
    b = -(weighted @ residuals[..., None])[..., 0]
    return A, b, (weights.flatten(1) * residuals.square()).sum(1)


def pair_equations(
    views: WorkingViews,
    source: Int[Tensor, " K"],
    target: Int[Tensor, " K"],
    R: Float[Tensor, "K 3 3"],
    t: Float[Tensor, "K 3"],
    sigma_normal: float,
    sigma_depth: float,
    settings: AlignmentSettings,
    points: int | None = None,
) -> tuple[Float[Tensor, "K 6 6"], Float[Tensor, "K 6"], Float[Tensor, " K"]]:
    """Gauss-Newton equations A xi = b of K relative poses x_target = R x_source + t, and costs.

    xi = (rotation vector, translation) is a left perturbation about the target's centre:
    x_target -> Exp(rotation) (x_target - centre) + centre + translation, to first order what
    `perturbed` does. Both directions are compared. `sigma_normal` is the scale of differences of
    normals (chord, about radians), `sigma_depth` that of depths, in object radii. The cost is the
    weighted sum of squares, with the weights of this pose.
    """
    count = views.points.shape[1] if points is None else min(points, views.points.shape[1])
    centre = views.centres[target]
    scale = sigma_depth * views.radius
    forward = compare(views, source, target, R, t, centre, count)
    A, b, cost = _equations(forward, sigma_normal, scale, settings)
    # A perturbation (w, v) of the target's points about c moves the source's about R^T (c - t)
    # by (-R^T w, -R^T v).
    back = R.transpose(1, 2)
    centre_back = (back @ (centre - t)[..., None])[..., 0]
    shift = -(back @ t[..., None])[..., 0]
    backward = compare(views, target, source, back, shift, centre_back, count)
    A_back, b_back, cost_back = _equations(backward, sigma_normal, scale, settings)
    turn = torch.zeros_like(A)
    turn[:, :3, :3] = turn[:, 3:, 3:] = -back
    A = A + turn.transpose(1, 2) @ A_back @ turn
    b = b + (turn.transpose(1, 2) @ b_back[..., None])[..., 0]
    return A, b, cost + cost_back


def perturbed(
    R: Float[Tensor, "K 3 3"],
    t: Float[Tensor, "K 3"],
    xi: Float[Tensor, "K 6"],
    centre: Float[Tensor, "K 3"],
) -> tuple[Float[Tensor, "K 3 3"], Float[Tensor, "K 3"]]:
    """x -> Exp(xi) (R x + t - centre) + centre, xi = (rotation vector, translation); R is kept
    orthonormal by a Newton-Schulz step."""
    step = pypose.se3(xi.roll(3, dims=1)).Exp().matrix()  # PyPose: (translation, rotation)
    turned = step[:, :3, :3] @ R
    turned = 1.5 * turned - 0.5 * turned @ turned.transpose(1, 2) @ turned
    moved = (step[:, :3, :3] @ (t - centre)[..., None])[..., 0]
    return turned, moved + step[:, :3, 3] + centre


def align(
    views: WorkingViews,
    source: Int[Tensor, " K"],
    target: Int[Tensor, " K"],
    R: Float[Tensor, "K 3 3"],
    t: Float[Tensor, "K 3"],
    stage: AlignmentStage,
    settings: AlignmentSettings,
) -> tuple[Float[Tensor, "K 3 3"], Float[Tensor, "K 3"]]:
    """K relative poses after damped Gauss-Newton steps of limited length.

    The scale of depths goes geometrically from its first to its last value.
    """
    most = max(1, POINTS_AT_ONCE // stage.points)
    if len(R) > most:
        parts = [
            align(views, i, j, rotation, shift, stage, settings)
            for i, j, rotation, shift in zip(
                *(x.split(most) for x in (source, target, R, t)), strict=True
            )
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    first, last = stage.sigma_depth
    for iteration in range(stage.iterations):
        share = iteration / max(stage.iterations - 1, 1)
        sigma = first * (last / first) ** share
        A, b, _ = pair_equations(
            views, source, target, R, t, stage.sigma_normal, sigma, settings, stage.points
        )
        diagonal = A.diagonal(dim1=1, dim2=2)
        floor = 1e-4 * diagonal.mean(1, keepdim=True) + 1e-6
        xi = torch.linalg.solve(A + torch.diag_embed(settings.damping * diagonal + floor), b)
        turn = _limited(xi[:, :3], settings.max_rotation)
        shift = _limited(xi[:, 3:], settings.max_translation * views.radius)
        xi = torch.cat([turn, shift], 1)
        R, t = perturbed(R, t, xi, views.centres[target])
    return R, t


def _limited(vectors: Float[Tensor, "K 3"], length: float) -> Float[Tensor, "K 3"]:
    """Vectors shortened to at most this length."""
    norm = vectors.norm(dim=1, keepdim=True)
    return vectors * (length / norm.clamp_min(length))
