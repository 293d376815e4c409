"""Making a function a distance again, without moving its surface: |grad f| = 1 (Sussman, 1994)."""

from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from pmni.sdf.block_grid import BlockGrid

STEP = 0.5
"""Of the pseudo-time, in cells: the largest that is stable in three dimensions."""


def reinitialize_values(
    grid: BlockGrid, values: Float[Tensor, " N"], fixed: Bool[Tensor, " N"], sweeps: int
) -> Float[Tensor, " N"]:
    """A function on a sparse grid after so many sweeps; `fixed` nodes keep their values."""
    sign = _smooth_sign(values, grid.spacing)
    for _ in range(sweeps):
        slope = upwind_slope(*grid.differences(values), sign > 0) / grid.spacing
        moved = values - STEP * grid.spacing * sign * (slope - 1)
        values = torch.where(fixed, values, moved)
    return values


def reinitialize_dense_values(
    values: Float[Tensor, "n n n"], fixed: Bool[Tensor, "n n n"], sweeps: int
) -> Float[Tensor, "n n n"]:
    """The same on all nodes of a grid on [-1, 1]^3."""
    spacing = 2 / (len(values) - 1)
    sign = _smooth_sign(values, spacing)
    for _ in range(sweeps):
        around = pad(values[None, None], (1,) * 6, mode="replicate")[0, 0]
        steps = [around.diff(dim=axis) for axis in range(3)]
        for axis, other in product(range(3), repeat=2):
            if axis != other:
                steps[axis] = steps[axis].narrow(other, 1, len(values))
        before = torch.stack([steps[axis].narrow(axis, 0, len(values)) for axis in range(3)], -1)
        behind = torch.stack([steps[axis].narrow(axis, 1, len(values)) for axis in range(3)], -1)
        slope = upwind_slope(before, behind, sign > 0) / spacing
        values = torch.where(fixed, values, values - STEP * spacing * sign * (slope - 1))
    return values


def upwind_slope(
    before: Float[Tensor, "*n 3"], behind: Float[Tensor, "*n 3"], outside: Bool[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """Godunov's |grad f|, times the spacing, of the differences from and to the neighbours."""
    sign = torch.where(outside, 1.0, -1.0)[..., None]
    rising, falling = (sign * before).clamp_(min=0), (sign * behind).clamp_(max=0)
    return torch.maximum(rising.square_(), falling.square_()).sum(-1).sqrt_()


def _smooth_sign(values: Tensor, spacing: float) -> Tensor:
    return values / torch.sqrt(values**2 + spacing**2)
