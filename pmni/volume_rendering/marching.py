"""Patches of rays marched on common planes of constant z-depth.

In the camera frame the point of pixel (u, v) at depth z is z * m with m = K^-1 (u, v, 1), so
samples of neighbouring rays on one plane differ by z / fx and z / fy along the camera's axes.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from pmni import kernels
from pmni.kernels.types import Patches, Planes
from pmni.volume_rendering.occupancy import OccupancyGrid


@torch.no_grad()
def march(
    patches: Patches,
    occupancy: OccupancyGrid,
    truncation: Float[Tensor, ""],
    step: Float[Tensor, ""],
    jitter: Float[Tensor, " P"],
) -> Planes:
    """The planes, `step` apart, that bound the intervals with a NeuS weight worth computing.

    NeuS gives no weight to an interval in which f grows, that lies wholly outside (or inside) the
    `truncation` of the surface, or that lies behind the surface. This is decided from the occupancy
    grid's f on the patch's middle ray and from how much f can change from there to a corner.
    `jitter` in [0, 1) shifts each patch's planes by a fraction of the step.
    """
    h, w = patches.m.shape[1:3]
    middle = patches.m[:, h // 2, w // 2]
    axis = _rotate(patches.rotation, middle)  # (P, 3), z-depth 1
    # The unit sphere about the origin is crossed where |centre + z axis| < 1.
    length2 = (axis**2).sum(-1, keepdim=True)
    nearest = -(patches.centre * axis).sum(-1, keepdim=True) / length2  # (P, 1) z-depth
    corner = (patches.m[:, 0, 0] - middle).norm(dim=-1, keepdim=True) * nearest
    count = int(2 / step) + 2
    k = torch.arange(count + 1, device=axis.device, dtype=axis.dtype)
    z = nearest + (k - count / 2 + jitter[:, None]) * step  # (P, S + 1)
    f = occupancy.sample(patches.centre[:, None] + z[..., None] * axis[:, None])
    f, next_f = f[:, :-1], f[:, 1:]  # at both ends of the interval from plane k to k + 1
    slope = (next_f - f) / (step * length2.sqrt())
    tangential = (1 - slope**2).clamp(min=0).sqrt()
    truncation = truncation + corner * tangential
    behind = (f < -truncation).cumsum(-1) > 0
    falling = slope < occupancy.settings.max_slope
    occupied = (next_f < truncation) & falling & ~behind & (z[:, :-1] > 0)
    occupied[:, -1] = False
    bounds = occupied.clone()
    bounds[:, 1:] |= occupied[:, :-1]
    patch, plane = bounds.nonzero(as_tuple=True)
    offsets = pad(bounds.sum(-1).cumsum(0), (1, 0))
    return Planes(patch, z[patch, plane], occupied[patch, plane], offsets)


@torch.no_grad()
def march_padded(
    capacity: int,
    patches: Patches,
    occupancy: OccupancyGrid,
    truncation: Float[Tensor, ""],
    step: Float[Tensor, ""],
    jitter: Float[Tensor, " P"],
) -> tuple[Planes, Int[Tensor, ""]]:
    """`capacity` planes, and the number of planes that `march` would return.

    The planes are the first of `march`, then padding, so that their number does not depend on the
    data. By kernels on a GPU the host does not wait for the device.
    """
    if kernels.use_triton(patches.m.device):
        from pmni.kernels.marching import march_padded as by_kernels

        values, max_slope = occupancy.values, occupancy.settings.max_slope
        return by_kernels(capacity, patches, values, max_slope, truncation, step, jitter)
    planes = march(patches, occupancy, truncation, step, jitter)
    needed = len(planes.patch)
    kept, padding = min(needed, capacity), max(0, capacity - needed)
    valid = planes.valid[:kept].clone()
    valid[capacity - 1 :] = False
    patch, z, valid = (
        pad(part, (0, padding)) for part in (planes.patch[:kept], planes.z[:kept], valid)
    )
    offsets = planes.offsets.clamp(max=capacity)
    return Planes(patch, z, valid, offsets), torch.tensor(needed, device=offsets.device)


def plane_points(patches: Patches, planes: Planes) -> Float[Tensor, "M h w 3"]:
    """World points of all rays on all planes; differentiable in the poses."""
    if kernels.use_triton(patches.m.device) and patches.m.dtype == torch.float32:
        from pmni.kernels.marching import plane_points as by_kernels

        return by_kernels(patches, planes)
    rays = _rotate(patches.rotation[:, None, None], patches.m)  # (P, h, w, 3)
    centre = patches.centre[planes.patch][:, None, None]
    x = centre + planes.z[:, None, None, None] * rays[planes.patch]
    if len(planes.patch) == 0:
        return x
    is_padding = torch.arange(len(x), device=x.device) >= planes.offsets[-1]
    return torch.where(is_padding[:, None, None, None], 0.0, x)


def _rotate(rotation: Tensor, vectors: Tensor) -> Tensor:
    return (rotation * vectors[..., None, :]).sum(-1)
