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

from pmni.kernels.devices import device_guard
from pmni.kernels.double_backward import forbid_double_backward
from pmni.kernels.mlp_head import BETA, head_derivatives, head_values

WIDTHS = 16, 128
"""Smallest and largest number of hidden units."""
MAX_INPUTS = 63
"""Largest number of inputs: the three coordinates and the features."""
POINTS = 64
"""Points that a program handles at once, for values."""
PROGRAMS = 528
"""Largest number of programs, for values."""
WARPS = 4
"""Warps of a program for each 64 hidden units, for values."""
GRAD_POINTS = 16
"""Points that a program handles at once, for gradients."""
GRAD_PROGRAMS = 528
"""Largest number of programs, for gradients; each sums the gradients of the weights apart."""
GRAD_WARPS = 2
"""Warps of a program for each 64 hidden units, for gradients."""
PRECISION = "tf32x3"
"""Precision of matrix products: about single precision."""
GRAD_PRECISION = "tf32"
"""Precision of products that only gradients of the loss depend on: errors of 5e-4 at most."""

Weights = tuple[Tensor, Tensor, Tensor, Tensor]
"""Weights and biases of both layers: first, bias, second, end."""
Inputs = tuple[Tensor, Tensor, *Weights]
"""Points, features and weights."""


def values(
    x: Float[Tensor, "N 3"],
    features: Float[Tensor, "N D"],
    first: Float[Tensor, "W 3+D"],
    bias: Float[Tensor, " W"],
    second: Float[Tensor, "1 W"],
    end: Float[Tensor, "1"],
    num_valid: Int[Tensor, ""] | None = None,
) -> Float[Tensor, " N"]:
    """f = second . softplus(first [x, features] + bias) + end, where softplus has beta = 100.

    All are float32. Values and derivatives of points from `num_valid` on are zero. A derivative
    that is to be differentiated once more is PyTorch's: for that, `values_and_slopes` is faster.
    """
    _check(x, features, first)
    outputs: Tensor = _Values.apply(num_valid, x, features, first, bias, second, end)
    return outputs


def values_and_slopes(
    x: Float[Tensor, "N 3"],
    features: Float[Tensor, "N D"],
    first: Float[Tensor, "W 3+D"],
    bias: Float[Tensor, " W"],
    second: Float[Tensor, "1 W"],
    end: Float[Tensor, "1"],
    num_valid: Int[Tensor, ""] | None = None,
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"], Float[Tensor, "N D"]]:
    """f and its partial derivatives by x and by the features, all differentiable once."""
    _check(x, features, first)
    outputs: tuple[Tensor, Tensor, Tensor] = _Slopes.apply(
        num_valid, x, features, first, bias, second, end
    )
    return outputs


def fits(inputs: int, width: int) -> bool:
    """Whether kernels take a network of this many inputs and hidden units."""
    return inputs <= MAX_INPUTS and WIDTHS[0] <= width <= WIDTHS[1]


def _check(x: Tensor, features: Tensor, first: Tensor) -> None:
    if not (x.dtype == features.dtype == first.dtype == torch.float32):
        types = f"{x.dtype}, {features.dtype}, {first.dtype}"
        raise TypeError(f"kernels of the network take float32, not {types}")
    if not fits(3 + features.shape[1], len(first)):
        raise ValueError(
            f"kernels of the network take {WIDTHS[0]} to {WIDTHS[1]} hidden units and at most "
            f"{MAX_INPUTS} inputs, not {len(first)} and {3 + features.shape[1]}"
        )


class _Values(torch.autograd.Function):
    """Autograd function of the values f."""

    @staticmethod
    def forward(ctx: Any, num_valid: Tensor | None, *inputs: *Inputs) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.num_valid = num_valid
        return forward(inputs, num_valid, slopes=False)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needs_grad = ctx.saved_tensors, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return None, *_derivatives_by_torch(inputs, needs_grad, gradient)
        return None, *backward(inputs, ctx.num_valid, needs_grad, gradient)


class _Slopes(torch.autograd.Function):
    """Autograd function of f and its derivatives by the inputs."""

    @staticmethod
    def forward(
        ctx: Any, num_valid: Tensor | None, *inputs: *Inputs
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(*inputs)
        ctx.num_valid = num_valid
        return forward(inputs, num_valid, slopes=True)

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor, grad_x: Tensor, grad_features: Tensor
    ) -> tuple[Tensor | None, ...]:
        inputs, directions = ctx.saved_tensors, (grad_x, grad_features)
        with torch.no_grad():
            outputs = backward(
                inputs, ctx.num_valid, ctx.needs_input_grad[1:], gradient, directions
            )
        computed = tuple(tensor for tensor in outputs if tensor is not None)
        guarded = iter(forbid_double_backward(computed, (*inputs, gradient, *directions)))
        return None, *(None if tensor is None else next(guarded) for tensor in outputs)


def _shape(
    features: Tensor, first: Tensor, points: int, warps: int, slopes: bool
) -> dict[str, Any]:
    """Compile-time constants of the kernels."""
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
    """The inputs in the kernels' memory layout: features with one row for each feature."""
    return [tensor.contiguous() for tensor in (x, features.t(), *rest)]


def forward(
    inputs: Inputs, num_valid: Int[Tensor, ""] | None, slopes: bool
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"], Float[Tensor, "N D"]]:
    """f and, if asked for, its derivatives by x and by the features."""
    x, features, first, *rest = _for_kernels(*inputs)
    outputs = x.new_empty(len(x))
    grad_x = torch.empty_like(x) if slopes else x
    grad_features = torch.empty_like(features) if slopes else features
    shape = _shape(features, first, POINTS, WARPS, slopes)
    programs = min(PROGRAMS, triton.cdiv(len(x), POINTS))
    if programs:
        with device_guard(x):
            head_values[(programs,)](
                x,
                features,
                first,
                *rest,
                outputs,
                grad_x,
                grad_features,
                num_valid,
                len(x),
                **shape,
            )
    return outputs, grad_x, grad_features.t()


def backward(
    inputs: Inputs,
    num_valid: Int[Tensor, ""] | None,
    needs_grad: tuple[bool, ...],
    gradient: Float[Tensor, " N"],
    directions: tuple[Float[Tensor, "N 3"], Float[Tensor, "N D"]] | None = None,
    slopes: Float[Tensor, "N D"] | None = None,
) -> tuple[Tensor | None, ...]:
    """Derivatives by all inputs of <f, gradient> + <its derivatives by the inputs, directions>.

    `slopes`, if not None, is filled with f's derivatives by the features: computing them again
    takes little time, and keeping those of `forward` much memory.
    """
    along_x, along = directions or inputs[:2]
    arguments = _for_kernels(*inputs[:5], gradient) + _for_kernels(along_x, along)
    x, features, first = arguments[:3]
    shape = _shape(features, first, GRAD_POINTS, GRAD_WARPS, slopes=directions is not None)
    width, columns = first.shape
    weights = any(needs_grad[2:])
    grad_x, grad_features = torch.empty_like(x), torch.empty_like(features)
    programs = min(GRAD_PROGRAMS, triton.cdiv(len(x), GRAD_POINTS))
    sums = x.new_empty(programs if weights else 0, width, columns + 2)
    if programs:
        with device_guard(x):
            head_derivatives[(programs,)](
                *arguments,
                grad_x,
                grad_features,
                None if slopes is None else slopes.t(),
                sums,
                num_valid,
                len(x),
                LOWER=GRAD_PRECISION,
                WEIGHTS=weights,
                **shape,
            )
    if not weights:
        return grad_x, grad_features.t(), None, None, None, None
    total = sums.sum(0)
    grad_weights = total[:, :columns], total[:, columns], total[:, columns + 1].view_as(inputs[4])
    return grad_x, grad_features.t(), *grad_weights, gradient.sum().view(1)


def _derivatives_by_torch(
    inputs: Inputs, needs_grad: tuple[bool, ...], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Derivatives of <f, gradient> that can be differentiated again."""
    x, features, first, bias, second, end = inputs
    hidden = softplus(linear(torch.cat([x, features], -1), first, bias), beta=BETA.value)
    f = linear(hidden, second, end)[:, 0]
    sources = [source for source, want in zip(inputs, needs_grad, strict=True) if want]
    outputs = iter(torch.autograd.grad(f, sources, gradient, create_graph=True))
    return tuple(next(outputs) if want else None for want in needs_grad)
