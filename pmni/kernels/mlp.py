"""A network with one hidden layer, its gradient by the inputs, and the derivatives of both, by
Triton kernels: nothing that is as large as points times hidden units is ever in memory.

Sums over the points, for the derivatives by the weights, are in an order that does not change.
"""

from typing import Any

import torch
import triton
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, softplus

from pmni.kernels.band import device_of
from pmni.kernels.derivatives import last
from pmni.kernels.mlp_head import (
    BETA,
    head_input_derivatives,
    head_values,
    head_weight_derivatives,
)

WIDTHS = 16, 128
"""Fewest and most hidden units."""
MOST_INPUTS = 64
"""The three coordinates and the features."""
POINTS = 64
"""A program's, at a time."""
UNITS = 32
"""Hidden units at a time."""
PROGRAMS = 264
"""Most that sum up the derivatives by some hidden units' weights."""
PRECISION = "tf32x3"
"""Of products of matrices: about that of single precision."""

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def values(
    x: Float[Tensor, "N 3"],
    features: Float[Tensor, "N D"],
    first: Float[Tensor, "W 3+D"],
    bias: Float[Tensor, "W"],
    second: Float[Tensor, "1 W"],
    end: Float[Tensor, "1"],
) -> Float[Tensor, "N"]:
    """f = second . softplus(first [x, features] + bias) + end, where softplus has beta = 100.

    All are float32. A derivative that is to be differentiated once more is PyTorch's: for that,
    `values_and_slopes` is faster.
    """
    _check(x, features, first)
    found: Tensor = _Values.apply(x, features, first, bias, second, end)
    return found


def values_and_slopes(
    x: Float[Tensor, "N 3"],
    features: Float[Tensor, "N D"],
    first: Float[Tensor, "W 3+D"],
    bias: Float[Tensor, "W"],
    second: Float[Tensor, "1 W"],
    end: Float[Tensor, "1"],
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N 3"], Float[Tensor, "N D"]]:
    """f and its partial derivatives by x and by the features, all differentiable once."""
    _check(x, features, first)
    found: tuple[Tensor, Tensor, Tensor] = _Slopes.apply(x, features, first, bias, second, end)
    return found


def fits(inputs: int, width: int) -> bool:
    """Whether kernels take a network of this many inputs and hidden units."""
    return inputs <= MOST_INPUTS and WIDTHS[0] <= width <= WIDTHS[1]


def _check(x: Tensor, features: Tensor, first: Tensor) -> None:
    if not (x.dtype == features.dtype == first.dtype == torch.float32):
        types = f"{x.dtype}, {features.dtype}, {first.dtype}"
        raise TypeError(f"kernels of the network take float32, not {types}")
    if not fits(3 + features.shape[1], len(first)):
        raise ValueError(
            f"kernels of the network take {WIDTHS[0]} to {WIDTHS[1]} hidden units and at most "
            f"{MOST_INPUTS} inputs, not {len(first)} and {3 + features.shape[1]}"
        )


class _Values(torch.autograd.Function):
    """f alone."""

    @staticmethod
    def forward(ctx: Any, *inputs: *Inputs) -> Tensor:
        ctx.save_for_backward(*inputs)
        return _values(inputs, slopes=False)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return _derivatives_by_torch(ctx.saved_tensors, ctx.needs_input_grad, gradient)
        return _derivatives(ctx.saved_tensors, ctx.needs_input_grad, gradient, None)


class _Slopes(torch.autograd.Function):
    """f and its derivatives by the inputs."""

    @staticmethod
    def forward(ctx: Any, *inputs: *Inputs) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(*inputs)
        return _values(inputs, slopes=True)

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor, by_x: Tensor, by_features: Tensor
    ) -> tuple[Tensor | None, ...]:
        inputs, directions = ctx.saved_tensors, (by_x, by_features)
        with torch.no_grad():
            found = _derivatives(inputs, ctx.needs_input_grad, gradient, directions)
        known = tuple(tensor for tensor in found if tensor is not None)
        refusing = iter(last(known, (*inputs, gradient, *directions)))
        return tuple(None if tensor is None else next(refusing) for tensor in found)


def _shape(features: Tensor, first: Tensor, slopes: bool) -> dict[str, Any]:
    """How kernels are compiled."""
    inputs = max(16, triton.next_power_of_2(first.shape[1]))
    return {
        "FEATURES": features.shape[1],
        "WIDTH": len(first),
        "INPUTS": inputs,
        "UNITS": min(UNITS, triton.next_power_of_2(len(first))),
        "POINTS": POINTS,
        "PRECISION": PRECISION,
        "SLOPES": slopes,
    }


def _values(inputs: Inputs, slopes: bool) -> tuple[Tensor, Tensor, Tensor]:
    """f and, if asked for, its derivatives by x and by the features."""
    x, features, first, *rest = (tensor.contiguous() for tensor in inputs)
    found = x.new_empty(len(x))
    by_x = torch.empty_like(x) if slopes else x
    by_features = torch.empty_like(features) if slopes else features
    shape = _shape(features, first, slopes)
    with device_of(x):
        head_values[(triton.cdiv(len(x), POINTS),)](
            x, features, first, *rest, found, by_x, by_features, len(x), **shape
        )
    return found, by_x, by_features


def _derivatives(
    inputs: Inputs,
    wanted: tuple[bool, ...],
    gradient: Tensor,
    directions: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor | None, ...]:
    """Derivatives by all inputs of <f, gradient> + <its derivatives by the inputs, directions>."""
    given = [tensor.contiguous() for tensor in (*inputs[:5], gradient, *(directions or inputs[:2]))]
    x, features, first, _, second, gradient, *_ = given
    shape = _shape(features, first, directions is not None)
    blocks = triton.cdiv(len(x), POINTS)
    found: list[Tensor | None] = [None] * 6
    with device_of(x):
        if wanted[0] or wanted[1]:
            by_x, by_features = torch.empty_like(x), torch.empty_like(features)
            found[:2] = by_x, by_features
            head_input_derivatives[(blocks,)](*given, by_x, by_features, len(x), **shape)
        if any(wanted[2:]):
            width, columns = first.shape
            programs = min(blocks, PROGRAMS)
            sums = x.new_empty(programs, width, columns + 2)
            parts = triton.cdiv(width, shape["UNITS"])
            head_weight_derivatives[(programs, parts)](*given, sums, len(x), **shape)
            total = sums.sum(0)
            found[2:] = (
                total[:, :columns],
                total[:, columns],
                total[:, columns + 1].view_as(second),
                gradient.sum().view(1),
            )
    return tuple(found)


def _derivatives_by_torch(
    inputs: Inputs, wanted: tuple[bool, ...], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Derivatives of <f, gradient> that can be differentiated again."""
    x, features, first, bias, second, end = inputs
    hidden = softplus(linear(torch.cat([x, features], -1), first, bias), beta=BETA.value)
    f = linear(hidden, second, end)[:, 0]
    sources = [source for source, want in zip(inputs, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(f, sources, gradient, create_graph=True))
    return tuple(next(found) if want else None for want in wanted)
