"""Results that are equal to the last bit when a computation is repeated on the same machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Context in which sums on a GPU have a fixed order, if it is `enabled`; slower.

    Enter it before anything is computed on a GPU: cuBLAS reads its workspace setting only once.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # PyTorch asks for it
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
