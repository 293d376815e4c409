"""Derivatives by kernels, which cannot be differentiated further."""

from typing import Any

import torch
from torch import Tensor


class _ForbidDoubleBackward(torch.autograd.Function):
    """The first `count` tensors unchanged; a backward pass through them is an error."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        raise NotImplementedError(
            "kernels have no further derivatives of the network; set train.field.backend: torch"
        )


def forbid_double_backward(
    outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Outputs of a backward pass that raise an error when they are differentiated by its inputs."""
    return (
        _ForbidDoubleBackward.apply(len(outputs), *outputs, *inputs)
        if torch.is_grad_enabled()
        else outputs
    )
