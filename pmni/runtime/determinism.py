"""The same results to the last bit, when a computation is repeated on the same machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def bit_for_bit(wanted: bool) -> Iterator[None]:
    """If it is wanted, sums within the block are in an order that does not change, which is slower:
    on GPUs they are else in whatever order threads come to them. To be entered before anything has
    been computed on a GPU."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # PyTorch asks for it
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
