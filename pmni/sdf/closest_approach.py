"""Where rays come nearest to the surface, inside or outside of it."""

import torch
from jaxtyping import Float
from torch import Tensor

from pmni import kernels
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.sdf import SDF

HALVINGS = 5
"""Halvings of the step that refine the minimum between the points of the march."""


@torch.no_grad()
def closest_approach(
    sdf: SDF,
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    near: Float[Tensor, " N"],
    far: Float[Tensor, " N"],
    step: float,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Distances along rays at which f is least within [near, far], and the values there.

    f changes no faster than the distance along the ray: where it is v, and the least so far is m,
    nothing lower lies within v - m. Steps are at least `step` long.
    """
    if isinstance(sdf, NarrowBandSDF) and kernels.use_triton(near.device):
        from pmni.kernels.rays import least_values

        band = sdf.kernel_tensors()
        return least_values(band, origins, directions, near, far, step, HALVINGS)
    best = torch.full_like(near, torch.inf)
    at = near.clone()
    ray = torch.arange(len(near), device=near.device)
    t = near.clone()
    while len(ray):
        value = sdf(origins[ray] + t[:, None] * directions[ray])
        lower = value < best[ray]
        best[ray] = torch.where(lower, value, best[ray])
        at[ray] = torch.where(lower, t, at[ray])
        t = t + (0.9 * (value - best[ray])).clamp(min=step)
        going = t < far[ray]
        ray, t = ray[going], t[going]
    for _ in range(HALVINGS):
        step = step / 2
        for side in (-step, step):
            value = sdf(origins + (at + side)[:, None] * directions)
            lower = value < best
            best = torch.where(lower, value, best)
            at = torch.where(lower, at + side, at)
    return at, best
