"""Whether the steps of a training are captured and replayed as CUDA graphs."""

import torch

from pmni import kernels
from pmni.config.extensions import LOSSES
from pmni.config.training import TrainSettings
from pmni.errors import InputError
from pmni.sdf.encoding import Encoding


def unsupported_reason(
    settings: TrainSettings, encoding: Encoding, device: torch.device
) -> str | None:
    """Why the steps of a training cannot be graph-captured; None if they can."""
    if device.type != "cuda":
        return f"the device is {device.type}, not a GPU"
    if not kernels.use_triton(device):
        return f"{kernels.BACKEND_VARIABLE} is torch"
    if settings.rendering.backend != "auto":
        return f"rendering.backend is {settings.rendering.backend}, not auto"
    if not encoding.graph_capturable:
        return f"the encoding {type(encoding).__name__} cannot be captured"
    for phase in settings.phases:
        for name in phase.weights.active():
            if LOSSES[name].dynamic_shape:
                return f"the loss term '{name}' has tensors whose shapes depend on the data"
    return None


def captures_graphs(settings: TrainSettings, encoding: Encoding, device: torch.device) -> bool:
    """Whether the steps of a training are graph-captured.

    Raises InputError when `graph` is on and they cannot be.
    """
    reason = unsupported_reason(settings, encoding, device)
    if settings.graph == "on" and reason:
        raise InputError(f"train.graph is on, but {reason}; set it to auto")
    return settings.graph != "off" and reason is None
