"""A network with one hidden layer, its gradient by the inputs, and the derivatives of both, by
Triton kernels: nothing that is as large as points times hidden units is ever in memory.

Sums over the points, for the derivatives by the weights, are in an order that does not change.
"""

from typing import Any

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear, softplus

from pmni.kernels.derivatives import last
from pmni.kernels.devices import device_of
from pmni.kernels.mlp_head import BETA, head_derivatives, head_values

WIDTHS = 16, 128
"""Fewest and most hidden units."""
MOST_INPUTS = 63
"""The three coordinates and the features."""
POINTS, PROGRAMS, WARPS = 64, 528, 4
"""For values: a program's points at a time, most programs, and a program's warps for 64 units."""
DERIVATIVE_POINTS, SUMS, DERIVATIVE_WARPS = 16, 528, 2
"""The same for derivatives: each program has sums of its own of those by the weights."""
PRECISION, LOWER = "tf32x3", "tf32"
"""Of products of matrices: about that of single precision; and of those that only derivatives of
the loss depend on, whose terms are 5e-4 off at most, at random."""

Weights = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of both layers, and their biases: first, bias, second, end."""
Inputs = tuple[Tensor, Tensor, *Weights]
"""Points, features and weights."""


def values(
    x: Float[Tensor, "N 3"],
    features: Float[Tensor, "N D"],
    first: Float[Tensor, "W 3+D"],
    bias: Float[Tensor, " W"],
    second: Float[Tensor, "1 W"],
    end: Float[Tensor, "1"],
    real: Int[Tensor, ""] | None = None,
) -> Float[Tensor, " N"]:
    """f = second . softplus(first [x, features] + bias) + end, where softplus has beta = 100.

    All are float32. If only some of the points are `real`, the others' values, and all derivatives
    there, are zero. A derivative that is to be differentiated once more is PyTorch's: for that,
    `values_and_slopes` is faster.
    """
    _check(x, features, first)
    found: Tensor = _Values.apply(real, x, features, first, bias, second, end)
    return found


def values_and_slopes(
    x: Float[Tensor, "N 3"],
    features: Float[Tensor, "N D"],
    first: Float[Tensor, "W 3+D"],
    bias: Float[Tensor, " W"],
    second: Float[Tensor, "1 W"],
    end: Float[Tensor, "1"],
    real: Int[Tensor, ""] | None = None,
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"], Float[Tensor, "N D"]]:
    """f and its partial derivatives by x and by the features, all differentiable once."""
    _check(x, features, first)
    found: tuple[Tensor, Tensor, Tensor] = _Slopes.apply(
        real, x, features, first, bias, second, end
    )
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
    def forward(ctx: Any, real: Tensor | None, *inputs: *Inputs) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.real = real
        return forward(inputs, real, slopes=False)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, wanted = ctx.saved_tensors, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return None, *_derivatives_by_torch(inputs, wanted, gradient)
        return None, *backward(inputs, ctx.real, wanted, gradient)


class _Slopes(torch.autograd.Function):
    """f and its derivatives by the inputs."""

    @staticmethod
    def forward(ctx: Any, real: Tensor | None, *inputs: *Inputs) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(*inputs)
        ctx.real = real
        return forward(inputs, real, slopes=True)

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor, by_x: Tensor, by_features: Tensor
    ) -> tuple[Tensor | None, ...]:
        inputs, directions = ctx.saved_tensors, (by_x, by_features)
        with torch.no_grad():
            found = backward(inputs, ctx.real, ctx.needs_input_grad[1:], gradient, directions)
        known = tuple(tensor for tensor in found if tensor is not None)
        refusing = iter(last(known, (*inputs, gradient, *directions)))
        return None, *(None if tensor is None else next(refusing) for tensor in found)


def _shape(
    features: Tensor, first: Tensor, points: int, warps: int, slopes: bool
) -> dict[str, Any]:
    """How kernels are compiled."""
    units = triton.next_power_of_2(len(first))
    return {
        "FEATURES": len(features),
        "WIDTH": len(first),
        "INPUTS": max(16, triton.next_power_of_2(first.shape[1] + 1)),
        "UNITS": units,
        "POINTS": points,
        "PRECISION": PRECISION,
        "SLOPES": slopes,
        "num_warps": warps * max(1, units // 64),
        "num_stages": 1,
    }


def _for_kernels(x: Tensor, features: Tensor, *rest: Tensor) -> list[Tensor]:
    """Feature by feature, as the kernels of the hash grid leave them."""
    return [tensor.contiguous() for tensor in (x, features.t(), *rest)]


def forward(
    inputs: Inputs, real: Int[Tensor, ""] | None, slopes: bool
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"], Float[Tensor, "N D"]]:
    """f and, if asked for, its derivatives by x and by the features."""
    x, features, first, *rest = _for_kernels(*inputs)
    found = x.new_empty(len(x))
    by_x = torch.empty_like(x) if slopes else x
    by_features = torch.empty_like(features) if slopes else features
    shape = _shape(features, first, POINTS, WARPS, slopes)
    programs = min(PROGRAMS, triton.cdiv(len(x), POINTS))
    if programs:
        with device_of(x):
            head_values[(programs,)](
                x, features, first, *rest, found, by_x, by_features, real, len(x), **shape
            )
    return found, by_x, by_features.t()


def backward(
    inputs: Inputs,
    real: Int[Tensor, ""] | None,
    wanted: tuple[bool, ...],
    gradient: Float[Tensor, " N"],
    directions: tuple[Float[Tensor, "N 3"], Float[Tensor, "N D"]] | None = None,
    slopes: Float[Tensor, "N D"] | None = None,
) -> tuple[Tensor | None, ...]:
    """Derivatives by all inputs of <f, gradient> + <its derivatives by the inputs, directions>.

    `slopes`, if given, become f's derivatives by the features. `forward` has found them, too, but
    to find them again takes little time, and to keep them much memory.
    """
    along_x, along = directions or inputs[:2]
    given = _for_kernels(*inputs[:5], gradient) + _for_kernels(along_x, along)
    x, features, first = given[:3]
    shape = _shape(
        features, first, DERIVATIVE_POINTS, DERIVATIVE_WARPS, slopes=directions is not None
    )
    width, columns = first.shape
    weights = any(wanted[2:])
    by_x, by_features = torch.empty_like(x), torch.empty_like(features)
    programs = min(SUMS, triton.cdiv(len(x), DERIVATIVE_POINTS))
    sums = x.new_empty(programs if weights else 0, width, columns + 2)
    if programs:
        with device_of(x):
            head_derivatives[(programs,)](
                *given,
                by_x,
                by_features,
                None if slopes is None else slopes.t(),
                sums,
                real,
                len(x),
                LOWER=LOWER,
                WEIGHTS=weights,
                **shape,
            )
    if not weights:
        return by_x, by_features.t(), None, None, None, None
    total = sums.sum(0)
    by_weights = total[:, :columns], total[:, columns], total[:, columns + 1].view_as(inputs[4])
    return by_x, by_features.t(), *by_weights, gradient.sum().view(1)


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
