"""A network's values and gradients, from a hash grid and one hidden layer, as a node in autograd's
graph for every million points: both ways to the table are added up in one pass, and nothing but the
features is kept for it."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.kernels import hash_grid, mlp
from pmni.kernels.derivatives import last
from pmni.kernels.mlp import Weights
from pmni.kernels.types import HashGridTensors

PER_UNIT = 0.5
"""The grid's coordinates are in [0, 1], (x + 1) / 2: by so much they change with x."""
AT_A_TIME = 2**20
"""Points of a node. A backward pass needs four times the memory of the features that are kept for
it, but for one node at a time."""


def values_and_gradients(
    x: Float[Tensor, "N 3"], grid: HashGridTensors, weights: Weights
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
    """f and its gradient by x, both differentiable once.

    `weights` are those of the layers that follow the features of the `grid`.
    """
    num_valid = grid.num_valid
    found: list[tuple[Tensor, Tensor]] = []
    for number, part in enumerate(x.split(AT_A_TIME)):
        left = None if num_valid is None else (num_valid - number * AT_A_TIME).clamp(min=0)
        part_grid = replace(grid, num_valid=left)
        found.append(_ValuesAndGradients.apply(part, grid.table, part_grid, *weights))
    values, gradients = zip(*found, strict=True)
    return (torch.cat(values), torch.cat(gradients)) if len(found) > 1 else found[0]


class _ValuesAndGradients(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, params: Tensor, grid: HashGridTensors, *weights: *Weights
    ) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        place = (x + 1) * PER_UNIT
        features = hash_grid.features_at(place, grid)
        f, by_x, by_features = mlp.forward((x, features, *weights), grid.num_valid, slopes=True)
        ctx.save_for_backward(x, params, features, *weights)
        ctx.grid = grid
        slopes = hash_grid.x_derivatives_at(place, grid, by_features)
        return f, by_x.add_(slopes, alpha=PER_UNIT)

    @staticmethod
    def backward(ctx: Any, by_f: Tensor, by_gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, params, features, *weights = ctx.saved_tensors
        moving, table, _, *others = ctx.needs_input_grad
        grid, by_gradient = ctx.grid, by_gradient.contiguous()
        with torch.no_grad():
            place, direction = (x + 1) * PER_UNIT, by_gradient * PER_UNIT
            along = hash_grid.features_at(place, grid, direction)
            slopes = torch.empty_like(along)
            wanted = (moving, True, *others)
            inputs, directions = (x, features, *weights), (by_gradient, along)
            by_x, by_features, *by_weights = mlp.backward(
                inputs, grid.num_valid, wanted, by_f, directions, slopes
            )
            assert by_x is not None
            assert by_features is not None
            given = place, grid, by_features, slopes, direction
            if moving:
                by_x = by_x.add_(hash_grid.x_derivatives_at(*given), alpha=PER_UNIT)
            entries = hash_grid.table_derivatives(*given) if table else None
        every = (by_x if moving else None, entries, *by_weights)
        known = tuple(tensor for tensor in every if tensor is not None)
        refusing = iter(last(known, (x, params, *weights, by_f, by_gradient)))
        first, second, *rest = (None if one is None else next(refusing) for one in every)
        return first, second, None, *rest
