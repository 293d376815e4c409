"""The device on which a kernel runs."""

from contextlib import AbstractContextManager, nullcontext

import torch


def device_guard(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """The context in which a kernel runs where a tensor lives; on the CPU, in the interpreter."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
