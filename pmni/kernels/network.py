"""A network's values and gradients, from a hash grid and one hidden layer, as a node in autograd's
graph for every million points: both ways to the table are added up in one pass, and nothing but the
features is kept for it."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.kernels import hash_grid, mlp
from pmni.kernels.double_backward import forbid_double_backward
from pmni.kernels.mlp import Weights
from pmni.kernels.types import HashGridTensors

UNIT_SCALE = 0.5
"""Derivative of the grid's coordinates, (x + 1) / 2 in [0, 1], by x."""
CHUNK = 2**20
"""Points of a node of the graph. A backward pass needs four times the memory of the features that
are kept for it, but for one node at a time."""


def values_and_gradients(
    x: Float[Tensor, "N 3"], grid: HashGridTensors, weights: Weights
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
    """f and its gradient by x, both differentiable once.

    `weights` are those of the layers that follow the features of the `grid`.
    """
    num_valid = grid.num_valid
    outputs: list[tuple[Tensor, Tensor]] = []
    for number, part in enumerate(x.split(CHUNK)):
        left = None if num_valid is None else (num_valid - number * CHUNK).clamp(min=0)
        part_grid = replace(grid, num_valid=left)
        outputs.append(_ValuesAndGradients.apply(part, grid.table, part_grid, *weights))
    values, gradients = zip(*outputs, strict=True)
    return (torch.cat(values), torch.cat(gradients)) if len(outputs) > 1 else outputs[0]


class _ValuesAndGradients(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, params: Tensor, grid: HashGridTensors, *weights: *Weights
    ) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        grid_x = (x + 1) * UNIT_SCALE
        features = hash_grid.features_at(grid_x, grid)
        f, grad_x, grad_features = mlp.forward((x, features, *weights), grid.num_valid, slopes=True)
        ctx.save_for_backward(x, params, features, *weights)
        ctx.grid = grid
        slopes = hash_grid.x_derivatives_at(grid_x, grid, grad_features)
        return f, grad_x.add_(slopes, alpha=UNIT_SCALE)

    @staticmethod
    def backward(ctx: Any, grad_f: Tensor, grad_gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, params, features, *weights = ctx.saved_tensors
        moving, table, _, *others = ctx.needs_input_grad
        grid, grad_gradient = ctx.grid, grad_gradient.contiguous()
        with torch.no_grad():
            grid_x, direction = (x + 1) * UNIT_SCALE, grad_gradient * UNIT_SCALE
            along = hash_grid.features_at(grid_x, grid, direction)
            slopes = torch.empty_like(along)
            needs_grad = (moving, True, *others)
            inputs, directions = (x, features, *weights), (grad_gradient, along)
            grad_x, grad_features, *grad_weights = mlp.backward(
                inputs, grid.num_valid, needs_grad, grad_f, directions, slopes
            )
            assert grad_x is not None
            assert grad_features is not None
            arguments = grid_x, grid, grad_features, slopes, direction
            if moving:
                grad_x = grad_x.add_(hash_grid.x_derivatives_at(*arguments), alpha=UNIT_SCALE)
            entries = hash_grid.table_derivatives(*arguments) if table else None
        every = (grad_x if moving else None, entries, *grad_weights)
        computed = tuple(tensor for tensor in every if tensor is not None)
        guarded = iter(
            forbid_double_backward(computed, (x, params, *weights, grad_f, grad_gradient))
        )
        first, second, *rest = (None if one is None else next(guarded) for one in every)
        return first, second, None, *rest
