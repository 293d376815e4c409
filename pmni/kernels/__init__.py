"""Triton kernels. Each has a plain PyTorch twin, which runs on the CPU and says what is right."""

import os
from threading import Thread

import torch

from pmni.errors import InputError, MissingBackendError

VARIABLE = "PMNI_KERNELS"
"""Environment variable: `triton` (the kernels, on GPUs; the default) or `torch` (their twins)."""


def chosen(device: torch.device) -> bool:
    """Whether kernels run on a device, rather than their twins.

    Raises MissingBackendError when they should and Triton is not installed.
    """
    wanted = os.environ.get(VARIABLE, "triton")
    if wanted not in ("triton", "torch"):
        raise InputError(f"{VARIABLE}={wanted}: give triton or torch")
    if device.type != "cuda" or wanted == "torch":
        return False
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise MissingBackendError(
            f"Triton is not installed ({error}): pip install triton, or set {VARIABLE}=torch, "
            "which is slower"
        ) from error
    return True


def read_ahead(device: torch.device) -> None:
    """Begin, beside what follows, what the first kernel on a device waits for: Triton names what it
    has compiled by a fingerprint of its own files, which takes half a second and is kept."""
    if chosen(device):
        Thread(target=take_fingerprint, name="Triton's fingerprint").start()


def take_fingerprint() -> None:
    """Make Triton know it from now on."""
    import triton.runtime.cache

    # Where another version of Triton has it elsewhere, the first kernel takes it.
    if (triton_key := getattr(triton.runtime.cache, "triton_key", None)) is not None:
        triton_key()
