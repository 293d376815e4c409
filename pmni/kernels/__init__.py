"""Triton kernels. Each has a plain PyTorch twin, which runs on the CPU and says what is right."""

import os

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
