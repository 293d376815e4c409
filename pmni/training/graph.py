"""Whether the steps of a training are recorded and replayed as CUDA graphs."""

import torch

from pmni import kernels
from pmni.config.training import TrainSettings
from pmni.errors import InputError
from pmni.training.objective import UNSIZED


def hindrance(settings: TrainSettings, device: torch.device) -> str | None:
    """Why the steps of a training cannot be recorded; None if they can."""
    if device.type != "cuda":
        return f"the device is {device.type}, not a GPU"
    if not kernels.chosen(device):
        return f"{kernels.VARIABLE} is torch"
    if settings.rendering.backend != "auto":
        return f"rendering.backend is {settings.rendering.backend}, not auto"
    if settings.field.encoding == "hash_grid" and settings.field.backend == "tinycudann":
        return "field.backend is tinycudann"
    for phase in settings.phases:
        for term in UNSIZED:
            if getattr(phase.weights, term):
                return f"the work of the term '{term}' is as large as the data make it"
    return None


def records(settings: TrainSettings, device: torch.device) -> bool:
    """Whether the steps of a training are recorded.

    Raises InputError when they should and cannot.
    """
    why = hindrance(settings, device)
    if settings.graph == "on" and why:
        raise InputError(f"train.graph is on, but {why}; set it to auto")
    return settings.graph != "off" and why is None
