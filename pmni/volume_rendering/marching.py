"""Patches of rays marched on common planes of constant z-depth.

In the camera frame the point of pixel (u, v) at depth z is z * m with m = K^-1 (u, v, 1), so
samples of neighbouring rays on one plane differ by z / fx and z / fy along the camera's axes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from pmni import kernels
from pmni.volume_rendering.occupancy import OccupancyGrid

RISE = 0.1
"""Where f grows faster than this along a ray, per unit of length, the ray leaves the surface."""


@dataclass(frozen=True)
class Patches:
    """P patches of h x w neighbouring pixels, each seen by one camera."""

    m: Float[Tensor, "P h w 3"]
    """K^-1 (u, v, 1) of each pixel: its ray in the camera frame, scaled to z = 1."""
    focal: Float[Tensor, "P 2"]
    """fx and fy, pixels."""
    rotation: Float[Tensor, "P 3 3"]
    """Camera to world."""
    centre: Float[Tensor, "P 3"]
    """Camera centre in the world."""


@dataclass(frozen=True)
class Planes:
    """M planes, patch after patch and front to back in each.

    The last of them may be spare: they belong to no patch, though `patch` says 0, are joined to
    nothing, and their samples lie at the origin.
    """

    patch: Int[Tensor, "M"]
    """The patch that a plane belongs to."""
    z: Float[Tensor, "M"]
    """Its z-depth."""
    joined: Bool[Tensor, "M"]
    """Whether the next plane in the list bounds the interval that begins here."""
    first: Int[Tensor, "P1"]
    """P + 1: the first plane of each patch, and the first spare one."""


@torch.no_grad()
def march(
    patches: Patches,
    occupancy: OccupancyGrid,
    reach: Float[Tensor, ""],
    step: Float[Tensor, ""],
    jitter: Float[Tensor, "P"],
) -> Planes:
    """The planes, `step` apart, that bound intervals of some weight.

    NeuS gives an interval none in which f grows, or from above the `reach` of the surface to above
    it, or from below to below; nor any behind it. That is asked of what the occupancy grid
    remembers of f on the patch's middle ray, and of how much f can change from there to a corner.
    `jitter` in [0, 1) shifts each patch's planes by a part of the step.
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
    f = occupancy.at(patches.centre[:, None] + z[..., None] * axis[:, None])
    f, ahead = f[:, :-1], f[:, 1:]  # of the interval from plane k to k + 1
    slope = (ahead - f) / (step * length2.sqrt())
    across = (1 - slope**2).clamp(min=0).sqrt()
    reach = reach + corner * across
    behind = (f < -reach).cumsum(-1) > 0
    occupied = (ahead < reach) & (slope < RISE) & ~behind & (z[:, :-1] > 0)
    occupied[:, -1] = False
    bounds = occupied.clone()
    bounds[:, 1:] |= occupied[:, :-1]
    patch, plane = bounds.nonzero(as_tuple=True)
    first = pad(bounds.sum(-1).cumsum(0), (1, 0))
    return Planes(patch, z[patch, plane], occupied[patch, plane], first)


@torch.no_grad()
def march_within(
    room: int,
    patches: Patches,
    occupancy: OccupancyGrid,
    reach: Float[Tensor, ""],
    step: Float[Tensor, ""],
    jitter: Float[Tensor, "P"],
) -> tuple[Planes, Int[Tensor, ""]]:
    """The first `room` of the planes that `march` finds, and how many it finds.

    There are always `room` of them: if there are fewer to be found, some are spare. On a GPU
    nothing waits for the device.
    """
    if kernels.chosen(patches.m.device):
        from pmni.kernels.marching import march_within as by_kernels

        return by_kernels(room, patches, occupancy, reach, step, jitter)
    found = march(patches, occupancy, reach, step, jitter)
    needed = len(found.patch)
    kept, spare = min(needed, room), max(0, room - needed)
    joined = found.joined[:kept].clone()
    joined[room - 1 :] = False
    first = found.first.clamp(max=room)
    patch, z, joined = (
        pad(part, (0, spare)) for part in (found.patch[:kept], found.z[:kept], joined)
    )
    planes = Planes(patch, z, joined, first)
    return planes, torch.tensor(needed, device=first.device)


def plane_points(patches: Patches, planes: Planes) -> Float[Tensor, "M h w 3"]:
    """World points of all rays on all planes; differentiable in the poses."""
    if kernels.chosen(patches.m.device) and patches.m.dtype == torch.float32:
        from pmni.kernels.marching import plane_points as by_kernels

        return by_kernels(patches, planes)
    rays = _rotate(patches.rotation[:, None, None], patches.m)  # (P, h, w, 3)
    centre = patches.centre[planes.patch][:, None, None]
    x = centre + planes.z[:, None, None, None] * rays[planes.patch]
    if len(planes.patch) == 0:
        return x
    real = torch.arange(len(x), device=x.device) < planes.first[-1]
    return torch.where(real[:, None, None, None], x, 0.0)


def _rotate(rotation: Tensor, vectors: Tensor) -> Tensor:
    return (rotation * vectors[..., None, :]).sum(-1)
