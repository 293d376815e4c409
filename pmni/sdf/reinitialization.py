"""Reinitialisation: a function becomes a distance again, |grad f| = 1, and its surface stays.

Sussman, Smereka and Osher, Journal of Computational Physics 114, 1994; Godunov's upwind slopes.
"""

from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from pmni.sdf.block_grid import BlockGrid

TIME_STEP = 0.5
"""Step of the pseudo-time, cells: the largest that is stable in three dimensions."""


def reinitialize_values(
    grid: BlockGrid, values: Float[Tensor, " N"], fixed: Bool[Tensor, " N"], sweeps: int
) -> Float[Tensor, " N"]:
    """The values on a sparse grid after some sweeps; `fixed` nodes keep theirs."""
    sign = _smooth_sign(values, grid.spacing)
    for _ in range(sweeps):
        slope = upwind_slope(*grid.differences(values), sign > 0) / grid.spacing
        updated = values - TIME_STEP * grid.spacing * sign * (slope - 1)
        values = torch.where(fixed, values, updated)
    return values


def reinitialize_dense_values(
    values: Float[Tensor, "n n n"], fixed: Bool[Tensor, "n n n"], sweeps: int
) -> Float[Tensor, "n n n"]:
    """The values on a dense grid on [-1, 1]^3 after some sweeps; `fixed` nodes keep theirs."""
    spacing = 2 / (len(values) - 1)
    sign = _smooth_sign(values, spacing)
    for _ in range(sweeps):
        around = pad(values[None, None], (1,) * 6, mode="replicate")[0, 0]
        steps = [around.diff(dim=axis) for axis in range(3)]
        for axis, other in product(range(3), repeat=2):
            if axis != other:
                steps[axis] = steps[axis].narrow(other, 1, len(values))
        backward = torch.stack([steps[axis].narrow(axis, 0, len(values)) for axis in range(3)], -1)
        forward = torch.stack([steps[axis].narrow(axis, 1, len(values)) for axis in range(3)], -1)
        slope = upwind_slope(backward, forward, sign > 0) / spacing
        values = torch.where(fixed, values, values - TIME_STEP * spacing * sign * (slope - 1))
    return values


def upwind_slope(
    backward: Float[Tensor, "*n 3"], forward: Float[Tensor, "*n 3"], outside: Bool[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """Godunov's |grad f|, times the spacing, from backward and forward differences."""
    sign = torch.where(outside, 1.0, -1.0)[..., None]
    rising, falling = (sign * backward).clamp_(min=0), (sign * forward).clamp_(max=0)
    return torch.maximum(rising.square_(), falling.square_()).sum(-1).sqrt_()


def _smooth_sign(values: Tensor, spacing: float) -> Tensor:
    return values / torch.sqrt(values**2 + spacing**2)
