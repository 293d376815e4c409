"""The hash grid's twin: features and their first and second derivatives, by Triton kernels.

The derivatives by x and by the table are nodes of their own in autograd's graph, so that
neither is computed where only the other is asked for.

Gradients of the table are sums over the points. They are added up in single precision in whatever
order, or, under `torch.use_deterministic_algorithms`, in fixed point, where order does not matter.
Points that follow one another along a ray, or in a patch, are summed up before they are added.
A unit of the fixed point is at most 2^-60 of the number of points times the largest term: for a
million points, 2^-40 of the largest term, while single precision has 2^-24.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
from jaxtyping import Float, Int32
from torch import Tensor

from pmni.kernels.band import device_of
from pmni.kernels.derivatives import last
from pmni.kernels.hash_grid_levels import add_to_entries, second_derivatives, values, x_slopes

POINTS = 128
"""A program's, of one level: one a thread."""
ROWS, STEPS = 32, 16
"""Of a program that adds to entries, which goes along STEPS points in each of its ROWS."""


def hash_grid_features(
    x: Float[Tensor, "N 3"],
    params: Float[Tensor, "E"],
    layout: Int32[Tensor, "L 5"],
    features: int,
    active: int,
) -> Float[Tensor, "N D"]:
    """Features (N, L * features) of points, as `fields.hash_grid.HashGrid.forward`.

    Differentiable twice with respect to x, and once more with respect to `params`.

    Args:
        x: float32. Farther than a hundred boxes' sizes away the twin takes other entries.
        params: float32, the table.
        layout: `fields.hash_grid.layout_of` the levels.
        features: features of a level.
        active: levels from this one on are zero.
    """
    if x.dtype != torch.float32 or params.dtype != torch.float32:
        raise TypeError(f"kernels of the hash grid take float32, not {x.dtype}, {params.dtype}")
    grid = (layout, features, min(active, len(layout)))
    found: Tensor = _Features.apply(x, (params,), *grid)
    if params.requires_grad and torch.is_grad_enabled():
        found = found + _Entries.apply(x.detach(), params, *grid)
    return found


class _Features(torch.autograd.Function):
    """The features, as functions of x alone: autograd does not look into the tuple."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, table: tuple[Tensor], layout: Tensor, features: int, active: int
    ) -> Tensor:
        (params,) = table
        ctx.save_for_backward(x, params, layout)
        ctx.shape = features, active
        found = _out(x, layout, features, active)
        _launch(values, x, layout, features, active, params, found)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, params, layout = ctx.saved_tensors
        return _Slopes.apply(x, params, gradient, layout, *ctx.shape), None, None, None, None


class _Entries(torch.autograd.Function):
    """Zeros, with the features' derivatives by the table."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, params: Tensor, layout: Tensor, features: int, active: int
    ) -> Tensor:
        ctx.save_for_backward(x, params, layout)
        ctx.shape = features, active
        return x.new_zeros(()).expand(len(x), len(layout) * features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, params, layout = ctx.saved_tensors
        features, active = ctx.shape

        def add(total: Tensor, units: Tensor) -> None:
            _add(x, layout, features, active, gradient.contiguous(), None, total, units)

        def most() -> Tensor:  # weights of a point add up to one
            return gradient.abs().amax() * len(x)

        with torch.no_grad():
            entries = _added_up(params, len(x), add, most)
        return None, *last((entries,), (params, gradient)), None, None, None


class _Slopes(torch.autograd.Function):
    """The derivative by x of the features' product with `gradient`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        params: Tensor,
        gradient: Tensor,
        layout: Tensor,
        features: int,
        active: int,
    ) -> Tensor:
        gradient = gradient.contiguous()
        ctx.save_for_backward(x, params, gradient, layout)
        ctx.shape = features, active
        parts = x.new_empty(active, 3, len(x))
        _launch(x_slopes, x, layout, features, active, params, gradient, parts)
        return parts.sum(0).t()

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        x, params, gradient, layout = ctx.saved_tensors
        features, active = ctx.shape
        along = _out(x, layout, features, active)
        parts = x.new_empty(active, 3, len(x))
        direction = direction.contiguous()

        def add(total: Tensor, units: Tensor) -> None:
            _add(x, layout, features, active, gradient, direction, total, units)

        def most() -> Tensor:  # a cell's corners weigh +-scale, at most, along each axis
            scale = layout[active - 1, 0].view(torch.float32)
            steepest = direction.abs().sum(1).amax() * scale * 2
            return gradient.abs().amax() * steepest * len(x)

        with torch.no_grad():
            tensors = (params, gradient, direction, along, parts)
            _launch(second_derivatives, x, layout, features, active, *tensors)
            entries = _added_up(params, len(x), add, most)
            found = (parts.sum(0).t(), entries, along)
        return *last(found, (x, params, gradient, direction)), None, None, None


def _out(x: Tensor, layout: Tensor, features: int, active: int) -> Tensor:
    """Room for features; those of idle levels are zero."""
    width = len(layout) * features
    return x.new_empty(len(x), width) if active == len(layout) else x.new_zeros(len(x), width)


def _launch(
    kernel: Any, x: Tensor, layout: Tensor, features: int, active: int, *tensors: Tensor
) -> None:
    """Run a kernel over all points and active levels."""
    with device_of(x):
        kernel[(triton.cdiv(len(x), POINTS), active)](
            x.contiguous(),
            layout,
            *tensors,
            len(x),
            len(layout),
            FEATURES=features,
            PADDED=triton.next_power_of_2(features),
            POINTS=POINTS,
            enable_fp_fusion=False,  # a point on a face is in the cell in which the twin has it
        )


def _add(
    x: Tensor,
    layout: Tensor,
    features: int,
    active: int,
    gradient: Tensor,
    direction: Tensor | None,
    total: Tensor,
    units: Tensor,
) -> None:
    """Add the table's derivative of the features' product with `gradient`, or of the features'
    derivative in the `direction`."""
    with device_of(x):
        add_to_entries[(triton.cdiv(len(x), ROWS * STEPS), active)](
            x.contiguous(),
            layout,
            gradient,
            x if direction is None else direction,
            total,
            units,
            len(x),
            len(layout),
            FEATURES=features,
            PADDED=triton.next_power_of_2(features),
            ROWS=ROWS,
            STEPS=STEPS,
            SLOPES=direction is not None,
            enable_fp_fusion=False,
        )


def _added_up(
    params: Tensor,
    points: int,
    add: Callable[[Tensor, Tensor], None],
    most: Callable[[], Tensor],
) -> Tensor:
    """The gradient of the table that `add` adds up, given units to count in (1: none).

    `most` is the largest that any entry's sum of magnitudes can be.
    """
    if not torch.are_deterministic_algorithms_enabled() or points == 0:
        total = torch.zeros_like(params)
        add(total, params)
        return total
    total = torch.zeros_like(params, dtype=torch.int64)
    bound = most()
    bits = (62 - torch.frexp(bound).exponent).clamp(max=126)
    one = torch.ones_like(bound)
    add(total, torch.ldexp(one, bits))
    # Gradients that are not finite make all of the table's so.
    return total * torch.where(bound.isfinite(), torch.ldexp(one, -bits), torch.nan)
