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
    cross_matrix,
)
from pmni.sdf.block_grid import trilinear, trilinear_gradient
from pmni.sdf.closest_approach import closest_approach
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.sphere_tracing import box_interval, trace

GRAZING = 0.15
"""Least |cosine| between ray and normal by which the slide along the surface is divided."""
CURVATURE_STEP = 0.01
"""Least distance over which normals are differentiated, normalised units."""
LARGEST_CURVATURE = 50.0
"""To which the derivatives of the normal are limited, 1 / normalised units."""
OUTLYING = 0.4
"""Length of a residual at which the ray may see another part of the object than the state's."""
MOST_STEPS = 80
"""Of sphere tracing: rays that need more only graze the surface."""
OBJECT_SIZE = 0.8
"""Typical radius of the object, the unit of the bias fields' coordinates."""


@dataclass(frozen=True)
class Residuals:
    """K residual vectors of D components: r, and dr = -A u + J_view q_view + J_common q_common.

    A u takes u at the 8 nodes in `rows` with the `weights`. The residuals of view i are those in
    [i K / V, (i + 1) K / V). `valid` is 0 where there is nothing to compare.
    """

    value: Float[Tensor, "K D"]
    rows: Int[Tensor, "K 8"]
    weights: Float[Tensor, "K D 8"]
    view_jacobian: Float[Tensor, "K D 16"]
    shared_jacobian: Float[Tensor, "K D 2"]
    valid: Float[Tensor, " K"]

    def lengths(self) -> Float[Tensor, " K"]:
        """|r|."""
        return torch.linalg.vector_norm(self.value, dim=-1)

    def only(self, chosen: Bool[Tensor, "V P"]) -> "Residuals":
        """The others are no longer valid."""
        return replace(self, valid=self.valid * chosen.view(-1))


def trust(residuals: Float[Tensor, "K D"]) -> Float[Tensor, " K"]:
    """From 1 to 0: whether rays see that part of the object which they meet of the state."""
    return torch.exp(-residuals.square().sum(-1) / OUTLYING**2)


def rays_through(
    observations: Observations, state: State, points: Float[Tensor, "V P 2"]
) -> tuple[Float[Tensor, "V P 3"], Float[Tensor, "K 3"], Float[Tensor, "K 3"]]:
    """Rays through image points: camera-frame directions, and world origins and directions."""
    local = observations.directions(points, state.log_focal)
    d = (state.rotations.float()[:, None] @ local[..., None])[..., 0].view(-1, 3)
    origin = state.centres.float()[:, None].expand(local.shape).reshape(-1, 3)
    return local, origin, d


def first_hits(
    sdf: NarrowBandSDF, origin: Float[Tensor, "K 3"], d: Float[Tensor, "K 3"]
) -> tuple[Bool[Tensor, " K"], Float[Tensor, "K 3"]]:
    """Whether rays meet the surface, and where; for the others, where they enter the box."""
    near, far = box_interval(origin, d)
    hits = trace(sdf, origin, d, near, far, 0.25 * sdf.grid.spacing, MOST_STEPS)
    return hits.mask, origin + torch.where(hits.mask, hits.distance, near)[:, None] * d


@dataclass(frozen=True)
class NormalCorrection:
    """Measured normals after the correction, and its derivatives."""

    normals: Float[Tensor, "V P 3"]
    coordinates: Float[Tensor, "V P 3"]
    """(1, u, v) of the bias field."""
    flattened: Float[Tensor, "V P 3"]
    """d normal / d flattening."""


def correct_normals(
    intrinsics: Float[Tensor, "V 3 3"],
    state: State,
    normals: Float[Tensor, "V P 3"],
    pixels: Float[Tensor, "V P 2"],
    directions: Float[Tensor, "V P 3"],
) -> NormalCorrection:
    """n' = normalise(n + (bias @ (1, u, v)) x n + flattening * sin(theta) e), camera frame.

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
    away = normals + cosine * directions  # sin(theta) long, across the ray
    sine = torch.linalg.vector_norm(away, dim=-1, keepdim=True)
    flattened = away * cosine + sine**2 * directions
    turn = torch.einsum("vij,vpj->vpi", state.bias, coordinates)
    corrected = normals + torch.linalg.cross(turn, normals) + state.flattening * flattened
    return NormalCorrection(normalize(corrected, dim=-1), coordinates, flattened)


def normal_residuals(
    observations: Observations,
    state: State,
    index: Int[Tensor, "V P"],
    spread: Float[Tensor, " K"],
) -> Residuals:
    """r = R n' - grad f(x + spread n_f): the rotated normal against the gradient of the cell.

    The gradient is not normalised, so that r holds the eikonal equation too, and it is linear in u.
    `spread` moves the point off the surface, by at most a cell. Derivatives:
    d r / d u     = -grad u + trust H d u / (n_f . d),
    d r / d omega = -[R n'] + H P [x],   d r / d tau = -H P,
    where H = d n_f / dx and P = I - d n_f^T / (n_f . d) slides a displaced point along the ray back
    onto the surface; a displaced surface is met -d u / (n_f . d) away. `trust` falls from 1 to 0
    where residuals are large: there the ray sees another part of the object than the state's,
    whose H says nothing about it.
    """
    sdf = state.surface
    views, count = index.shape
    pixels = observations.pixels[index].float()
    R = state.rotations.float()[:, None]
    local, origin, d = rays_through(observations, state, pixels)
    hit, x = first_hits(sdf, origin, d)
    n_f = normalize(sdf.value_and_gradient(x)[1], dim=-1)
    facing = (n_f * d).sum(-1)
    H = normal_derivative(state, x, n_f)
    slide = (H @ d[..., None])[..., 0] / facing.clamp(max=-GRAZING)[:, None]
    HP = H - slide[:, :, None] * n_f[:, None, :]

    measured = observations.normals[index]
    correction = correct_normals(observations.intrinsics, state, measured, pixels, local)
    Rn = (R @ correction.normals[..., None])[..., 0].view(-1, 3)
    x_s = x + spread[:, None] * n_f
    rows, place, inside = sdf.grid.cell_corners(x_s)
    gradient_weights = trilinear_gradient(place, sdf.grid.spacing)
    gradient = (gradient_weights @ sdf.values[rows][..., None])[..., 0]

    value = Rn - gradient
    met = (trust(value)[:, None] * slide)[:, :, None] * trilinear(place)[:, None, :]

    view_jacobian = x.new_zeros(views * count, 3, VIEW_UNKNOWNS)
    view_jacobian[..., ROTATION] = -cross_matrix(Rn) + HP @ cross_matrix(x)
    view_jacobian[..., TRANSLATION] = -HP
    turned = R @ -cross_matrix(correction.normals)
    view_jacobian[..., BIAS] = (
        turned[..., None] * correction.coordinates[:, :, None, None, :]
    ).view(-1, 3, 9)
    shared_jacobian = x.new_zeros(views * count, 3, SHARED_UNKNOWNS)
    shared_jacobian[..., NORMAL_TILT_BIAS] = (R @ correction.flattened[..., None])[..., 0].view(
        -1, 3
    )
    shared_jacobian[..., LOG_FOCAL] = -(HP @ focal_motion(x, origin, R, local)[..., None])[..., 0]
    return Residuals(
        value=value,
        rows=rows,
        weights=gradient_weights - met,
        view_jacobian=view_jacobian,
        shared_jacobian=shared_jacobian,
        valid=(hit & (facing < -0.02) & inside).float(),
    )


def contour_residuals(
    observations: Observations, state: State, index: Int[Tensor, "V P"]
) -> Residuals:
    """r = offset - min f along the ray of a contour point."""
    nearest = nearest_residuals(observations, state, observations.contour[index])
    nearest.view_jacobian[:, 0, OFFSET] = 1
    count = index.shape[1]
    offsets = state.offsets[:, None].expand(-1, count).reshape(-1, 1)
    seen = (observations.first_contour_point.diff() > 0).repeat_interleave(count)
    return replace(nearest, value=offsets + nearest.value, valid=nearest.valid * seen)


def coverage_residuals(
    observations: Observations, state: State, index: Int[Tensor, "V P"]
) -> Residuals:
    """r = -min f along the ray of a pixel in the mask that misses the surface.

    Nothing else brings back what a step has torn off a thin part.
    """
    nearest = nearest_residuals(observations, state, observations.pixels[index].float())
    return replace(nearest, valid=nearest.valid * (nearest.value[:, 0] < 0))


def nearest_residuals(
    observations: Observations, state: State, points: Float[Tensor, "V P 2"]
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
    distance, _ = closest_approach(sdf, origin, d, near, far, step=2.5 * sdf.grid.spacing)
    x = origin + distance[:, None] * d
    gradient = sdf.value_and_gradient(x)[1]
    across = normalize(gradient - (gradient * d).sum(-1, keepdim=True) * d, dim=-1)
    rows, place, inside = sdf.grid.cell_corners(x)
    weights = trilinear(place)
    view_jacobian = x.new_zeros(views * count, 1, VIEW_UNKNOWNS)
    view_jacobian[:, 0, ROTATION] = -torch.linalg.cross(x, across)
    view_jacobian[:, 0, TRANSLATION] = -across
    shared_jacobian = x.new_zeros(views * count, 1, SHARED_UNKNOWNS)
    shared_jacobian[:, 0, LOG_FOCAL] = -(across * focal_motion(x, origin, R, local)).sum(-1)
    return Residuals(
        value=-(weights * sdf.values[rows]).sum(-1, keepdim=True),
        rows=rows,
        weights=weights[:, None],
        view_jacobian=view_jacobian,
        shared_jacobian=shared_jacobian,
        valid=(inside & (near < far)).float(),
    )


def normal_derivative(
    state: State, x: Float[Tensor, "K 3"], n_f: Float[Tensor, "K 3"]
) -> Float[Tensor, "K 3 3"]:
    """d n_f / dx along the surface, by differences in two tangent directions."""
    sdf = state.surface
    step = max(sdf.grid.spacing, CURVATURE_STEP)
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
    return derivative.clamp(-LARGEST_CURVATURE, LARGEST_CURVATURE)


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
