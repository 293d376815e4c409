"""J^T J times an increment, of the residuals of refinement, in one pass over J."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from pmni.kernels.devices import device_guard

RESIDUALS = 128
"""Residuals of a program."""
WARPS = 8
"""Warps of a program."""


def add_product(
    surface: Float[Tensor, " N"],
    views: Float[Tensor, "V 16"],
    shared: Float[Tensor, "2"],
    rows: Int[Tensor, "K 8"],
    weights: Float[Tensor, "K D 8"],
    view_jacobian: Float[Tensor, "V KD 16"],
    shared_jacobian: Float[Tensor, "KD 2"],
    result: tuple[Float[Tensor, " N"], Float[Tensor, "V 16"], Float[Tensor, "2"]],
) -> None:
    """result += J^T J (surface, views, shared), as `refinement.normal_equations` does it in two
    passes. Sums are atomic: in any order."""
    tensors = (surface, views, shared, rows, weights, view_jacobian, shared_jacobian, *result)
    assert all(tensor.is_contiguous() for tensor in tensors)
    assert rows.dtype == torch.int32
    per_view = len(rows) // len(views)
    if per_view == 0:
        return
    with device_guard(surface):
        _add_product[(triton.cdiv(per_view, RESIDUALS), len(views))](
            *tensors,
            per_view,
            COMPONENTS=weights.shape[1],
            NODES=rows.shape[1],
            UNKNOWNS=views.shape[1],
            RESIDUALS=RESIDUALS,
            num_warps=WARPS,
        )


@triton.jit
def _add_product(
    surface,
    views,
    shared,
    rows,
    weights,
    view_jacobian,
    shared_jacobian,
    surface_sum,
    view_sum,
    shared_sum,
    per_view,
    COMPONENTS: tl.constexpr,
    NODES: tl.constexpr,
    UNKNOWNS: tl.constexpr,
    RESIDUALS: tl.constexpr,
):
    view = tl.program_id(1)
    index = tl.program_id(0) * RESIDUALS + tl.arange(0, RESIDUALS)
    in_range = index < per_view
    residual = view.to(tl.int64) * per_view + index
    corner, unknown = tl.arange(0, NODES)[None, :], tl.arange(0, UNKNOWNS)
    both = in_range[:, None]
    node = tl.load(rows + residual[:, None] * NODES + corner, mask=both, other=0)
    u = tl.load(surface + node, mask=both, other=0.0)
    q = tl.load(views + view * UNKNOWNS + unknown)
    first, second = tl.load(shared), tl.load(shared + 1)
    to_nodes = tl.zeros_like(u)
    to_view = tl.zeros((RESIDUALS, UNKNOWNS), tl.float32)
    to_first = tl.zeros((RESIDUALS,), tl.float32)
    to_second = tl.zeros((RESIDUALS,), tl.float32)
    for component in tl.static_range(COMPONENTS):
        line = residual * COMPONENTS + component
        A = tl.load(weights + line[:, None] * NODES + corner, mask=both, other=0.0)
        J = tl.load(
            view_jacobian + line[:, None] * UNKNOWNS + unknown[None, :], mask=both, other=0.0
        )
        c = tl.load(shared_jacobian + line * 2, mask=in_range, other=0.0)
        d = tl.load(shared_jacobian + line * 2 + 1, mask=in_range, other=0.0)
        change = tl.sum(J * q[None, :], 1) - tl.sum(A * u, 1) + c * first + d * second
        to_nodes -= A * change[:, None]
        to_view += J * change[:, None]
        to_first += c * change
        to_second += d * change
    tl.atomic_add(surface_sum + node, to_nodes, mask=both, sem="relaxed")
    tl.atomic_add(view_sum + view * UNKNOWNS + unknown, tl.sum(to_view, 0), sem="relaxed")
    tl.atomic_add(shared_sum, tl.sum(to_first, 0), sem="relaxed")
    tl.atomic_add(shared_sum + 1, tl.sum(to_second, 0), sem="relaxed")
