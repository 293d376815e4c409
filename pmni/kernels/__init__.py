"""Triton kernels. Each has a reference implementation in plain PyTorch, which runs on the CPU and
which tests compare it with. Kernels import nothing of the packages that use them."""

import os
from threading import Thread

import torch

from pmni.errors import InputError, MissingBackendError

BACKEND_VARIABLE = "PMNI_KERNELS"
"""Environment variable: `triton` (kernels on GPUs; the default) or `torch` (no kernels)."""


def use_triton(device: torch.device) -> bool:
    """Whether Triton kernels run on a device, rather than their reference implementations.

    Raises InputError for an unknown value of the environment variable, and MissingBackendError
    when kernels should run and Triton is not installed.
    """
    backend = os.environ.get(BACKEND_VARIABLE, "triton")
    if backend not in ("triton", "torch"):
        raise InputError(f"{BACKEND_VARIABLE}={backend}: give triton or torch")
    if device.type != "cuda" or backend == "torch":
        return False
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise MissingBackendError(
            f"Triton is not installed ({error}): pip install triton, or set "
            f"{BACKEND_VARIABLE}=torch, which is slower"
        ) from error
    return True


def warm_cache(device: torch.device) -> None:
    """Compute, in a thread, the hash of Triton's own files that the first kernel waits for.

    Triton keeps it for the life of the process; computing it takes half a second.
    """
    if use_triton(device):
        Thread(target=hash_triton, name="hash of Triton's files").start()


def hash_triton() -> None:
    """Compute the hash of Triton's own files, where this version of Triton caches it."""
    import triton.runtime.cache

    if (triton_key := getattr(triton.runtime.cache, "triton_key", None)) is not None:
        triton_key()
