"""NeuS weights: opacities of the intervals between planes, and their accumulation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pmni import kernels
from pmni.errors import MissingBackendError
from pmni.kernels.constants import ALPHA_EPSILON, LENGTH_EPSILON
from pmni.kernels.types import Patches, Planes
from pmni.volume_rendering.gradients import Samples, interval_means

Backend = Literal["auto", "torch", "nerfacc"]
WeightFunction = Callable[[Tensor, Tensor], Tensor]
"""Alpha (M, C) and the planes' patches (M,) -> weights (M, C)."""


@dataclass(frozen=True)
class Rendering:
    """Rendered images of P patches of h x w pixels."""

    opacity: Float[Tensor, "P h w"]
    normal: Float[Tensor, "P h w 3"]
    """Camera frame, weighted by opacity: not of unit length."""
    distance: Float[Tensor, "P h w"]
    """Along the ray, normalised units, weighted by opacity."""
    eikonal_residual: Float[Tensor, "P h w"]
    """Sum of (|grad f| - 1)^2 over the valid intervals of a ray."""
    intervals: Int[Tensor, ""]
    """Number of valid intervals of all rays."""


def composite(
    samples: Samples, patches: Patches, planes: Planes, inv_s: Float[Tensor, ""], backend: Backend
) -> Rendering:
    """Volume rendering with NeuS weights (NeurIPS 2021, eq. 11-13)."""
    intervals = planes.valid.sum() * (samples.f.shape[1] * samples.f.shape[2])
    single = samples.f.dtype == torch.float32
    if backend == "auto" and single and kernels.use_triton(samples.f.device):
        from pmni.kernels.compositing import composite as by_kernels

        parts = by_kernels(
            samples.f, samples.gradient, samples.per_interval, patches, planes, inv_s
        )
    else:
        parts = _composite(samples, patches, planes, inv_s, WEIGHTS[backend])
    opacity, distance, normal, eikonal_residual = parts
    if not samples.per_interval:
        normal = (patches.rotation.transpose(1, 2)[:, None, None] * normal[..., None, :]).sum(-1)
    return Rendering(opacity, normal, distance, eikonal_residual, intervals)


def _composite(
    samples: Samples, patches: Patches, planes: Planes, inv_s: Tensor, weigh: WeightFunction
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Opacity, distance, normal in the frame of the samples' gradients, eikonal residual."""
    count, h, w = patches.m.shape[:3]
    f, gradient = samples.f, samples.gradient
    if not samples.per_interval:
        gradient = interval_means(gradient)
    alpha = interval_alpha(f.flatten(1), planes.valid, inv_s)
    weights = weigh(alpha, planes.patch)  # (M, h w)
    length = torch.linalg.vector_norm(patches.m, dim=-1)[planes.patch]  # ray distance at z = 1
    distance = length * interval_means(planes.z)[:, None, None]
    values = torch.cat([torch.ones_like(f)[..., None], distance[..., None], gradient], dim=-1)
    total = accumulate(weights, values.flatten(1, 2), planes.patch, count).view(count, h, w, 5)
    # Where an interval is not valid its gradient may be anything, which must not reach f.
    safe = torch.where(planes.valid[:, None, None, None], gradient, 1.0)
    length = torch.sqrt((safe**2).sum(-1) + LENGTH_EPSILON)
    residual = (length - 1) ** 2 * planes.valid[:, None, None]
    eikonal_residual = f.new_zeros(count, h, w).index_add(0, planes.patch, residual)
    return total[..., 0], total[..., 1], total[..., 2:], eikonal_residual


def interval_alpha(
    f: Float[Tensor, "M C"], valid: Bool[Tensor, " M"], inv_s: Float[Tensor, ""]
) -> Float[Tensor, "M C"]:
    """Opacity of the interval from each plane to the next; zero where it is not valid.

    NeuS, eq. 13: clip((Phi(f_i) - Phi(f_i+1) + eps) / (Phi(f_i) + eps), 0, 1), with the logistic
    distribution function Phi(f) = sigmoid(inv_s f).
    """
    phi = torch.sigmoid(f * inv_s)
    next_phi = torch.roll(phi, -1, dims=0)
    alpha = ((phi - next_phi + ALPHA_EPSILON) / (phi + ALPHA_EPSILON)).clamp(0, 1)
    return alpha * valid[:, None]


def weights_torch(alpha: Float[Tensor, "M C"], patch: Int[Tensor, " M"]) -> Float[Tensor, "M C"]:
    """alpha_i times the transmittance prod_{j<i} (1 - alpha_j) of the patch's planes before.

    The products are differences of one running sum of logarithms in double precision.
    """
    log = torch.log1p(-alpha.double().clamp(max=1 - 1e-7))
    before = log.cumsum(0) - log  # exclusive
    is_first = torch.ones_like(patch, dtype=torch.bool)
    is_first[1:] = patch[1:] != patch[:-1]
    first = is_first.nonzero()[:, 0]  # (patches that have planes,)
    patch_rank = is_first.cumsum(0) - 1
    return alpha * torch.exp(before - before[first][patch_rank]).to(alpha.dtype)


def weights_nerfacc(alpha: Float[Tensor, "M C"], patch: Int[Tensor, " M"]) -> Float[Tensor, "M C"]:
    """The weights of `weights_torch`, computed by nerfacc (CUDA only)."""
    try:
        import nerfacc
    except ImportError:
        raise MissingBackendError(
            "rendering backend 'nerfacc' is not installed; pip install 'pmni[nerfacc]', "
            "or set train.rendering.backend: auto"
        ) from None
    if alpha.device.type != "cuda":
        raise MissingBackendError("rendering backend 'nerfacc' needs a CUDA device")
    columns = alpha.shape[1]
    rays = int(patch[-1]) + 1 if len(patch) else 0
    ray = torch.arange(columns, device=patch.device)[:, None] * rays + patch  # (C, M)
    flat, _ = nerfacc.render_weight_from_alpha(
        alpha.T.reshape(-1), ray_indices=ray.reshape(-1), n_rays=rays * columns
    )
    return flat.view(columns, -1).T


WEIGHTS: dict[str, WeightFunction] = {
    "auto": weights_torch,
    "torch": weights_torch,
    "nerfacc": weights_nerfacc,
}


def accumulate(
    weights: Float[Tensor, "M C"],
    values: Float[Tensor, "M C D"],
    patch: Int[Tensor, " M"],
    patches: int,
) -> Float[Tensor, "P C D"]:
    """Weighted sums of the planes' values over each patch's planes."""
    out = values.new_zeros(patches, *values.shape[1:])
    return out.index_add(0, patch, weights[..., None] * values)
