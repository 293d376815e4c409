"""Derivatives that kernels give and that cannot be differentiated further."""

from typing import Any

import torch
from torch import Tensor


class _Last(torch.autograd.Function):
    """Some tensors as they are; a backward pass through them is refused."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        raise NotImplementedError(
            "kernels have no further derivatives of the network; set train.field.backend: torch"
        )


def last(found: tuple[Tensor, ...], sources: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What was found from some tensors, made to refuse to be differentiated by them."""
    return _Last.apply(len(found), *found, *sources) if torch.is_grad_enabled() else found
