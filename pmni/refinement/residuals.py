"""The residuals of refinement and their derivatives, at the current surface and poses.

Notation: R, C a camera's rotation and centre; d a ray's direction in the world; x = C + t d where
it meets the surface; n_f = grad f / |grad f| there; n' a measured normal, corrected; u an increment
of f; omega, tau a left perturbation of a pose: R <- exp(omega) R, C <- exp(omega) C + tau.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from pmni.config.refinement import ResidualSettings
from pmni.geometry.rotations import cross_matrix
from pmni.refinement.observations import Observations
from pmni.refinement.state import (
    BIAS,
    LOG_FOCAL,
    NORMAL_TILT_BIAS,
    OFFSET,
    ROTATION,
    SHARED_UNKNOWNS,
    TRANSLATION,
    VIEW_UNKNOWNS,
    State,
)
from pmni.sdf.block_grid import trilinear, trilinear_gradient
from pmni.sdf.closest_approach import closest_approach
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.sphere_tracing import box_interval, trace

OBJECT_SIZE = 0.8
"""Typical radius of the object, the unit of the bias fields' coordinates, normalised units."""
DEFAULTS = ResidualSettings()
"""Limits of residuals where nothing else is said."""


@dataclass(frozen=True)
class Residuals:
    """K residual vectors r of D components, and their linear model dr.

    dr = -A u + view_jacobian q_view + shared_jacobian q_shared, where A takes the increment u at
    the 8 `nodes` around a point with the `weights`. The residuals of view i are those in
    [i K / V, (i + 1) K / V).
    """

    value: Float[Tensor, "K D"]
    nodes: Int[Tensor, "K 8"]
    weights: Float[Tensor, "K D 8"]
    view_jacobian: Float[Tensor, "K D 16"]
    shared_jacobian: Float[Tensor, "K D 2"]
    valid: Float[Tensor, " K"]
    """1, or 0 where there is nothing to compare."""

    def lengths(self) -> Float[Tensor, " K"]:
        """|r|."""
        return torch.linalg.vector_norm(self.value, dim=-1)

    def restricted_to(self, chosen: Bool[Tensor, "V P"]) -> "Residuals":
        """The same residuals, of which only the chosen ones remain valid."""
        return replace(self, valid=self.valid * chosen.view(-1))


def occlusion_weight(
    residuals: Float[Tensor, "K D"], settings: ResidualSettings = DEFAULTS
) -> Float[Tensor, " K"]:
    """Robust weight exp(-(|r| / occlusion_length)^2): 0 where a ray sees another part of the object
    than the one it meets of the current surface."""
    return torch.exp(-residuals.square().sum(-1) / settings.occlusion_length**2)


def rays_through(
    observations: Observations, state: State, points: Float[Tensor, "V P 2"]
) -> tuple[Float[Tensor, "V P 3"], Float[Tensor, "K 3"], Float[Tensor, "K 3"]]:
    """Rays through image points: camera-frame directions, and world origins and directions."""
    local = observations.directions(points, state.log_focal)
    d = (state.rotations.float()[:, None] @ local[..., None])[..., 0].view(-1, 3)
    origin = state.centres.float()[:, None].expand(local.shape).reshape(-1, 3)
    return local, origin, d


def first_hits(
    sdf: NarrowBandSDF,
    origin: Float[Tensor, "K 3"],
    d: Float[Tensor, "K 3"],
    settings: ResidualSettings = DEFAULTS,
) -> tuple[Bool[Tensor, " K"], Float[Tensor, "K 3"]]:
    """Whether rays meet the surface, and where; for the others, where they enter the box."""
    near, far = box_interval(origin, d)
    min_step = settings.trace_step_cells * sdf.grid.spacing
    hits = trace(sdf, origin, d, near, far, min_step, settings.trace_max_steps)
    return hits.mask, origin + torch.where(hits.mask, hits.distance, near)[:, None] * d


@dataclass(frozen=True)
class NormalCorrection:
    """Measured normals after the correction, and its derivatives."""

    normals: Float[Tensor, "V P 3"]
    coordinates: Float[Tensor, "V P 3"]
    """Coordinates (1, u, v) of the bias field."""
    tilt_derivative: Float[Tensor, "V P 3"]
    """Derivative of the normal by the tilt bias."""


def correct_normals(
    intrinsics: Float[Tensor, "V 3 3"],
    state: State,
    normals: Float[Tensor, "V P 3"],
    pixels: Float[Tensor, "V P 2"],
    directions: Float[Tensor, "V P 3"],
) -> NormalCorrection:
    """n' = normalise(n + (bias @ (1, u, v)) x n + tilt bias * sin(theta) e), camera frame.

    theta is the angle between n and the direction to the camera, e the unit vector in which n moves
    when theta grows.
    """
    K = intrinsics[:, None]
    offset = (pixels - K[..., :2, 2]) / K[..., 0, 0, None]
    distance = torch.linalg.vector_norm(state.centres, dim=-1).float()[:, None, None]
    coordinates = torch.cat(
        [torch.ones_like(offset[..., :1]), offset * distance / OBJECT_SIZE], dim=-1
    )
    cosine = -(normals * directions).sum(-1, keepdim=True)
    across = normals + cosine * directions  # sin(theta) long, across the ray
    sine = torch.linalg.vector_norm(across, dim=-1, keepdim=True)
    tilted = across * cosine + sine**2 * directions
    turn = torch.einsum("vij,vpj->vpi", state.bias, coordinates)
    corrected = normals + torch.linalg.cross(turn, normals) + state.normal_tilt_bias * tilted
    return NormalCorrection(normalize(corrected, dim=-1), coordinates, tilted)


def normal_residuals(
    observations: Observations,
    state: State,
    index: Int[Tensor, "V P"],
    spread: Float[Tensor, " K"],
    settings: ResidualSettings = DEFAULTS,
) -> Residuals:
    """r = R n' - grad f(x + spread n_f): the rotated normal against the gradient of the cell.

    The gradient is not normalised, so that r holds the eikonal equation too, and it is linear in u.
    `spread` moves the point off the surface, by at most a cell. Derivatives:
    d r / d u     = -grad u + w H d u / (n_f . d),
    d r / d omega = -[R n'] + H P [x],   d r / d tau = -H P,
    where H = d n_f / dx and P = I - d n_f^T / (n_f . d) slides a displaced point along the ray back
    onto the surface; a displaced surface is met -d u / (n_f . d) away. The robust weight w falls
    from 1 to 0 where residuals are large: there the ray sees another part of the object than the
    surface's, whose H says nothing about it.
    """
    sdf = state.surface
    views, count = index.shape
    pixels = observations.pixels[index].float()
    R = state.rotations.float()[:, None]
    local, origin, d = rays_through(observations, state, pixels)
    hit, x = first_hits(sdf, origin, d, settings)
    n_f = normalize(sdf.value_and_gradient(x)[1], dim=-1)
    facing = (n_f * d).sum(-1)
    H = normal_derivative(sdf, x, n_f, settings)
    slide = (H @ d[..., None])[..., 0] / facing.clamp(max=-settings.min_ray_cosine)[:, None]
    HP = H - slide[:, :, None] * n_f[:, None, :]

    measured = observations.normals[index]
    correction = correct_normals(observations.intrinsics, state, measured, pixels, local)
    Rn = (R @ correction.normals[..., None])[..., 0].view(-1, 3)
    shifted = x + spread[:, None] * n_f
    nodes, fraction, inside = sdf.grid.cell_corners(shifted)
    gradient_weights = trilinear_gradient(fraction, sdf.grid.spacing)
    gradient = (gradient_weights @ sdf.values[nodes][..., None])[..., 0]

    value = Rn - gradient
    slope = occlusion_weight(value, settings)[:, None] * slide
    hit_weights = slope[:, :, None] * trilinear(fraction)[:, None, :]

    view_jacobian = x.new_zeros(views * count, 3, VIEW_UNKNOWNS)
    view_jacobian[..., ROTATION] = -cross_matrix(Rn) + HP @ cross_matrix(x)
    view_jacobian[..., TRANSLATION] = -HP
    turned = (R @ -cross_matrix(correction.normals))[..., None]
    by_bias = turned * correction.coordinates[:, :, None, None, :]
    view_jacobian[..., BIAS] = by_bias.view(-1, 3, 9)
    shared_jacobian = x.new_zeros(views * count, 3, SHARED_UNKNOWNS)
    by_tilt = (R @ correction.tilt_derivative[..., None])[..., 0]
    shared_jacobian[..., NORMAL_TILT_BIAS] = by_tilt.view(-1, 3)
    by_focal = focal_motion(x, origin, R, local)
    shared_jacobian[..., LOG_FOCAL] = -(HP @ by_focal[..., None])[..., 0]
    return Residuals(
        value=value,
        nodes=nodes,
        weights=gradient_weights - hit_weights,
        view_jacobian=view_jacobian,
        shared_jacobian=shared_jacobian,
        valid=(hit & (facing < -settings.min_visible_cosine) & inside).float(),
    )


def contour_residuals(
    observations: Observations,
    state: State,
    index: Int[Tensor, "V P"],
    settings: ResidualSettings = DEFAULTS,
) -> Residuals:
    """r = offset - min f along the ray of a contour point."""
    nearest = approach_residuals(observations, state, observations.contour[index], settings)
    nearest.view_jacobian[:, 0, OFFSET] = 1
    count = index.shape[1]
    offsets = state.offsets[:, None].expand(-1, count).reshape(-1, 1)
    exists = (observations.first_contour_point.diff() > 0).repeat_interleave(count)
    return replace(nearest, value=offsets + nearest.value, valid=nearest.valid * exists)


def coverage_residuals(
    observations: Observations,
    state: State,
    index: Int[Tensor, "V P"],
    settings: ResidualSettings = DEFAULTS,
) -> Residuals:
    """r = -min f along the ray of a pixel in the mask that misses the surface.

    Nothing else brings back what a step has torn off a thin part.
    """
    points = observations.pixels[index].float()
    nearest = approach_residuals(observations, state, points, settings)
    return replace(nearest, valid=nearest.valid * (nearest.value[:, 0] < 0))


def approach_residuals(
    observations: Observations,
    state: State,
    points: Float[Tensor, "V P 2"],
    settings: ResidualSettings = DEFAULTS,
) -> Residuals:
    """r = -min f along the ray of an image point; the least value is at x_m.

    d r = -u(x_m) - g . (omega x x_m + tau), where g is grad f(x_m) across the ray: along it the
    minimum does not change to first order.
    """
    sdf = state.surface
    views, count, _ = points.shape
    R = state.rotations.float()[:, None]
    local, origin, d = rays_through(observations, state, points)
    near, far = box_interval(origin, d)
    step = settings.approach_step_cells * sdf.grid.spacing
    distance, _ = closest_approach(sdf, origin, d, near, far, step)
    x = origin + distance[:, None] * d
    gradient = sdf.value_and_gradient(x)[1]
    across = normalize(gradient - (gradient * d).sum(-1, keepdim=True) * d, dim=-1)
    nodes, fraction, inside = sdf.grid.cell_corners(x)
    weights = trilinear(fraction)
    view_jacobian = x.new_zeros(views * count, 1, VIEW_UNKNOWNS)
    view_jacobian[:, 0, ROTATION] = -torch.linalg.cross(x, across)
    view_jacobian[:, 0, TRANSLATION] = -across
    shared_jacobian = x.new_zeros(views * count, 1, SHARED_UNKNOWNS)
    shared_jacobian[:, 0, LOG_FOCAL] = -(across * focal_motion(x, origin, R, local)).sum(-1)
    return Residuals(
        value=-(weights * sdf.values[nodes]).sum(-1, keepdim=True),
        nodes=nodes,
        weights=weights[:, None],
        view_jacobian=view_jacobian,
        shared_jacobian=shared_jacobian,
        valid=(inside & (near < far)).float(),
    )


def normal_derivative(
    sdf: NarrowBandSDF,
    x: Float[Tensor, "K 3"],
    n_f: Float[Tensor, "K 3"],
    settings: ResidualSettings = DEFAULTS,
) -> Float[Tensor, "K 3 3"]:
    """d n_f / dx along the surface, by differences in two tangent directions."""
    step = max(sdf.grid.spacing, settings.min_curvature_step)
    least = n_f.abs().argmin(-1)
    first = normalize(torch.linalg.cross(n_f, torch.eye(3, device=x.device)[least]), dim=-1)
    derivative = torch.zeros(len(x), 3, 3, device=x.device)
    for tangent in (first, torch.linalg.cross(n_f, first)):
        ahead, behind = (
            normalize(sdf.value_and_gradient(x + side * step * tangent)[1], dim=-1)
            for side in (1, -1)
        )
        slope = (ahead - behind) / (2 * step)
        derivative += slope[:, :, None] * tangent[:, None, :]
    return derivative.clamp(-settings.max_curvature, settings.max_curvature)


def focal_motion(
    x: Float[Tensor, "K 3"],
    origin: Float[Tensor, "K 3"],
    R: Float[Tensor, "V 1 3 3"],
    local: Float[Tensor, "V P 3"],
) -> Float[Tensor, "K 3"]:
    """d x / d log f at fixed z-depth: towards the optical axis, by the distance from it."""
    depth = torch.linalg.vector_norm(x - origin, dim=-1, keepdim=True)
    lateral = torch.cat([local[..., :2], torch.zeros_like(local[..., 2:])], dim=-1)
    return -depth * (R @ lateral[..., None])[..., 0].reshape(-1, 3)
