"""NeuS weights: opacities of the intervals between planes, and their accumulation."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pmni.errors import MissingBackendError

EPSILON = 1e-5


def interval_alpha(
    f: Float[Tensor, "M C"], joined: Bool[Tensor, "M"], inv_s: Float[Tensor, ""]
) -> Float[Tensor, "M C"]:
    """Opacity of the interval from each plane to the next; zero where planes are not joined.

    NeuS, eq. 13: clip((Phi(f_i) - Phi(f_i+1) + eps) / (Phi(f_i) + eps), 0, 1), with the logistic
    distribution function Phi(f) = sigmoid(inv_s f).
    """
    phi = torch.sigmoid(f * inv_s)
    following = torch.roll(phi, -1, dims=0)
    alpha = ((phi - following + EPSILON) / (phi + EPSILON)).clamp(0, 1)
    return alpha * joined[:, None]


def weights_torch(alpha: Float[Tensor, "M C"], patch: Int[Tensor, "M"]) -> Float[Tensor, "M C"]:
    """alpha_i times the transmittance prod_{j<i} (1 - alpha_j) of the patch's planes before.

    The products are differences of one running sum of logarithms in double precision.
    """
    log = torch.log1p(-alpha.double().clamp(max=1 - 1e-7))
    before = log.cumsum(0) - log  # exclusive
    is_first = torch.ones_like(patch, dtype=torch.bool)
    is_first[1:] = patch[1:] != patch[:-1]
    first = is_first.nonzero()[:, 0]  # (patches that have planes,)
    which = is_first.cumsum(0) - 1
    return alpha * torch.exp(before - before[first][which]).to(alpha.dtype)


def weights_nerfacc(alpha: Float[Tensor, "M C"], patch: Int[Tensor, "M"]) -> Float[Tensor, "M C"]:
    """The same by nerfacc (CUDA only)."""
    try:
        import nerfacc
    except ImportError:
        raise MissingBackendError(
            "rendering backend 'nerfacc' is not installed; pip install 'pmni[nerfacc]', "
            "or set train.rendering.backend: torch"
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


WEIGHTS = {"torch": weights_torch, "nerfacc": weights_nerfacc}


def accumulate(
    weights: Float[Tensor, "M C"],
    values: Float[Tensor, "M C D"],
    patch: Int[Tensor, "M"],
    patches: int,
) -> Float[Tensor, "P C D"]:
    """Weighted sums of the planes' values over each patch's planes."""
    out = values.new_zeros(patches, *values.shape[1:])
    return out.index_add(0, patch, weights[..., None] * values)
