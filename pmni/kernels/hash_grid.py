"""Features of the hash grid and their first and second derivatives, by Triton kernels.

Reference implementation: `sdf.hash_grid`.

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
from jaxtyping import Float
from torch import Tensor

from pmni.kernels.devices import device_guard
from pmni.kernels.double_backward import forbid_double_backward
from pmni.kernels.hash_grid_levels import add_to_entries, features, x_derivatives
from pmni.kernels.types import HashGridTensors

POINTS = 64
"""Points of a program, one a thread."""
LEVELS = 4
"""Levels of a program."""
ROWS = 8
"""Rows of points of a program that adds to entries."""
STEPS = 24
"""Points of each of these rows."""
WARPS = 1
"""Warps of a program that adds to entries."""


def hash_grid_features(x: Float[Tensor, "N 3"], grid: HashGridTensors) -> Float[Tensor, "N D"]:
    """Features (N, L * features) of points, as `sdf.hash_grid.HashGrid.forward`; for padding they
    and their derivatives are zero.

    Differentiable twice with respect to x, and once more with respect to the table. Both are
    float32. More than a hundred box sizes away the reference implementation reads other entries.
    """
    params = grid.table
    if x.dtype != torch.float32 or params.dtype != torch.float32:
        raise TypeError(f"kernels of the hash grid take float32, not {x.dtype}, {params.dtype}")
    result: Tensor = _Features.apply(x, grid)
    if params.requires_grad and torch.is_grad_enabled():
        result = _Sum.apply(result, _Entries.apply(params, x.detach(), grid))
    return result


class _Features(torch.autograd.Function):
    """The features, as functions of x alone: autograd does not look into the tuple."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: HashGridTensors) -> Tensor:
        ctx.save_for_backward(x)
        ctx.grid = grid
        return features_at(x, grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return _Slopes.apply(x, ctx.grid.table, gradient, ctx.grid), None


class _Entries(torch.autograd.Function):
    """Zeros with the shape of the features, which carry their derivatives by the table."""

    @staticmethod
    def forward(ctx: Any, params: Tensor, x: Tensor, grid: HashGridTensors) -> Tensor:
        ctx.save_for_backward(params, x)
        ctx.grid = grid
        return x.new_zeros(()).expand(len(x), len(grid.layout) * grid.features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        params, x = ctx.saved_tensors
        with torch.no_grad():
            entries = table_derivatives(x, ctx.grid, gradient)
        return *forbid_double_backward((entries,), (params, gradient)), None, None


class _Sum(torch.autograd.Function):
    """Sum of the features and the zeros of `_Entries`."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, zeros: Tensor) -> Tensor:
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient


class _Slopes(torch.autograd.Function):
    """The derivative by x of the features' product with `gradient`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, params: Tensor, gradient: Tensor, grid: HashGridTensors
    ) -> Tensor:
        ctx.save_for_backward(x, params, gradient)
        ctx.grid = grid
        return x_derivatives_at(x, grid, gradient)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        x, params, gradient = ctx.saved_tensors
        with torch.no_grad():
            along = features_at(x, ctx.grid, direction)
            grad_x = x_derivatives_at(x, ctx.grid, None, gradient, direction)
            entries = table_derivatives(x, ctx.grid, None, gradient, direction)
        return *forbid_double_backward(
            (grad_x, entries, along), (x, params, gradient, direction)
        ), None


def features_at(
    x: Float[Tensor, "N 3"], grid: HashGridTensors, direction: Float[Tensor, "N 3"] | None = None
) -> Float[Tensor, "N D"]:
    """The features; or, with a direction, their derivatives in it."""
    levels = len(grid.layout)
    size = levels * grid.features, len(x)
    result = x.new_empty(size) if grid.active_levels == levels else x.new_zeros(size)
    _launch(features, x, grid, grid.table, direction, result)
    return result.t()


def x_derivatives_at(
    x: Float[Tensor, "N 3"],
    grid: HashGridTensors,
    gradient: Float[Tensor, "N D"] | None,
    slope_gradient: Float[Tensor, "N D"] | None = None,
    direction: Float[Tensor, "N 3"] | None = None,
) -> Float[Tensor, "N 3"]:
    """Derivatives by x of <features, gradient> + <their slopes in direction, slope_gradient>."""
    parts = x.new_empty(triton.cdiv(grid.active_levels, LEVELS), 3, len(x))
    arguments = _feature_major(gradient), _feature_major(slope_gradient), direction
    _launch(x_derivatives, x, grid, grid.table, *arguments, parts)
    return parts.sum(0).t()


def table_derivatives(
    x: Float[Tensor, "N 3"],
    grid: HashGridTensors,
    gradient: Float[Tensor, "N D"] | None,
    slope_gradient: Float[Tensor, "N D"] | None = None,
    direction: Float[Tensor, "N 3"] | None = None,
) -> Float[Tensor, " E"]:
    """Derivatives by the table of the sum that `x_derivatives_at` differentiates by x."""
    gradients = _feature_major(gradient), _feature_major(slope_gradient)

    def add(total: Tensor, units: Tensor) -> None:
        with device_guard(x):
            add_to_entries[(triton.cdiv(len(x), ROWS * STEPS), grid.active_levels)](
                x.contiguous(),
                grid.num_valid,
                grid.layout,
                *gradients,
                None if direction is None else direction.contiguous(),
                total,
                units,
                len(x),
                FEATURES=grid.features,
                PADDED=triton.next_power_of_2(grid.features),
                ROWS=ROWS,
                STEPS=STEPS,
                num_warps=WARPS,
                enable_fp_fusion=False,
            )

    def bound_of_sums() -> Tensor:
        bound = x.new_zeros(())
        if gradient is not None:  # weights of a point add up to one
            bound = bound + gradient.abs().amax()
        if slope_gradient is not None and direction is not None:
            # A cell's corners weigh +-scale, at most, along each axis.
            scale = grid.layout[grid.active_levels - 1, 0].view(torch.float32)
            bound = bound + slope_gradient.abs().amax() * direction.abs().sum(1).amax() * scale * 2
        return bound * len(x)

    return _sum_up(grid.table, len(x), add, bound_of_sums)


def _feature_major(gradient: Float[Tensor, "N D"] | None) -> Float[Tensor, "D N"] | None:
    """As kernels take it."""
    return None if gradient is None else gradient.t().contiguous()


def _launch(kernel: Any, x: Tensor, grid: HashGridTensors, *tensors: Tensor | None) -> None:
    """Run a kernel over all points and active levels."""
    arguments = (None if tensor is None else tensor.contiguous() for tensor in tensors)
    with device_guard(x):
        kernel[(triton.cdiv(len(x), POINTS), triton.cdiv(grid.active_levels, LEVELS))](
            x.contiguous(),
            grid.num_valid,
            grid.layout,
            *arguments,
            len(x),
            grid.active_levels,
            FEATURES=grid.features,
            PADDED=triton.next_power_of_2(grid.features),
            POINTS=POINTS,
            LEVELS=LEVELS,
            num_warps=max(1, POINTS // 32),
            enable_fp_fusion=False,  # a point on a face is in the same cell as in the reference
        )


def _sum_up(
    params: Tensor,
    points: int,
    add: Callable[[Tensor, Tensor], None],
    bound_of_sums: Callable[[], Tensor],
) -> Tensor:
    """The gradient of the table that `add` sums up, called with the units of fixed point (1: none).

    `bound_of_sums` bounds the sum of magnitudes of any entry.
    """
    if not torch.are_deterministic_algorithms_enabled() or points == 0:
        total = torch.zeros_like(params)
        add(total, params)
        return total
    total = torch.zeros_like(params, dtype=torch.int64)
    bound = bound_of_sums()
    bits = (62 - torch.frexp(bound).exponent).clamp(max=126)
    unit = torch.ones_like(bound)
    add(total, torch.ldexp(unit, bits))
    # Gradients that are not finite make all of the table's so.
    return total * torch.where(bound.isfinite(), torch.ldexp(unit, -bits), torch.nan)
