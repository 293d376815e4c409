"""Making a function a distance again, without moving its surface: |grad f| = 1 (Sussman, 1994)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from pmni.fields.block_grid import BlockGrid

STEP = 0.5
"""Of the pseudo-time, in cells: the largest that is stable in three dimensions."""


def redistance(
    grid: BlockGrid, values: Float[Tensor, "N"], fixed: Bool[Tensor, "N"], sweeps: int
) -> Float[Tensor, "N"]:
    """A function on a sparse grid after so many sweeps; `fixed` nodes keep their values."""
    sign = _smooth_sign(values, grid.spacing)
    for _ in range(sweeps):
        slope = upwind_slope(grid.with_apron(values), grid.spacing, sign > 0)
        moved = values - STEP * grid.spacing * sign * (slope - 1)
        values = torch.where(fixed, values, moved)
    return values


def redistance_dense(
    values: Float[Tensor, "n n n"], fixed: Bool[Tensor, "n n n"], sweeps: int
) -> Float[Tensor, "n n n"]:
    """The same on all nodes of a grid on [-1, 1]^3."""
    spacing = 2 / (len(values) - 1)
    sign = _smooth_sign(values, spacing)
    for _ in range(sweeps):
        around = pad(values[None, None], (1,) * 6, mode="replicate")[0]
        slope = upwind_slope(around, spacing, (sign > 0).view(-1)).view_as(values)
        values = torch.where(fixed, values, values - STEP * spacing * sign * (slope - 1))
    return values


def upwind_slope(
    around: Float[Tensor, "B i j k"], spacing: float, outside: Bool[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """Godunov's |grad f| at the inner nodes of arrays that have a border of one node."""
    size = [length - 2 for length in around.shape[1:]]
    outside = outside.view(-1, *size)

    def shifted(axis: int, step: int) -> Tensor:
        result = around
        for dimension in (1, 2, 3):
            start = 1 + (step if dimension == axis else 0)
            result = result.narrow(dimension, start, size[dimension - 1])
        return result

    centre = shifted(1, 0)
    square = torch.zeros_like(centre)
    for axis in (1, 2, 3):
        back = (centre - shifted(axis, -1)) / spacing
        ahead = (shifted(axis, 1) - centre) / spacing
        square = square + torch.where(
            outside,
            torch.maximum(back.clamp(min=0) ** 2, ahead.clamp(max=0) ** 2),
            torch.maximum(back.clamp(max=0) ** 2, ahead.clamp(min=0) ** 2),
        )
    return square.sqrt().reshape(-1)


def _smooth_sign(values: Tensor, spacing: float) -> Tensor:
    return values / torch.sqrt(values**2 + spacing**2)
