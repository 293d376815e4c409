"""Checkpoints of the surface, and the resumable state of a training; both guarded by checksums."""

import io
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from pmni.config.training import FieldSettings
from pmni.errors import InputError
from pmni.fields.network import NeuralSDF
from pmni.io.atomic import atomic_file
from pmni.io.hashing import verify_checksum, write_checksum

# Every backend's hash grid is stored under the same name.
_TINYCUDA_KEY, _GRID_KEY = "encoding.grid.params", "encoding.params"


def iteration_name(step: int) -> str:
    """The stem of all files of a step, such as iter_00030000."""
    return f"iter_{step:08d}"


def save_surface(path: Path, network: NeuralSDF, field: FieldSettings, step: int) -> None:
    """Write the network as safetensors, with what is needed to rebuild it, and its checksum."""
    tensors = {
        key.replace(_TINYCUDA_KEY, _GRID_KEY): value.detach().cpu().contiguous()
        for key, value in network.state_dict().items()
    }
    metadata = {
        "field": field.model_dump_json(),
        "active_levels": str(network.active),
        "step": str(step),
    }
    with atomic_file(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, metadata))
    write_checksum(path)


def load_surface(path: Path, device: torch.device, backend: str | None = None) -> NeuralSDF:
    """The network of a checkpoint, computed by `backend` (None: the one it was trained with).

    Raises InputError when the file is missing, damaged or of another kind.
    """
    verify_checksum(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        field = FieldSettings.parse(json.loads(metadata["field"]), str(path))
        active = int(metadata["active_levels"])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not a checkpoint of pmni") from None
    if backend is not None:
        field = field.model_copy(update={"backend": backend})
    network = NeuralSDF(field, seed=0)
    if field.backend == "tinycudann" and _GRID_KEY in tensors:
        tensors[_TINYCUDA_KEY] = tensors.pop(_GRID_KEY)
    network.load_state_dict(tensors)
    network.active = active
    return network.to(device).eval()


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a resumable state atomically, with its checksum."""
    buffer = io.BytesIO()  # a full disk then fails as an ordinary write
    torch.save(state, buffer)
    with atomic_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    write_checksum(path)


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a resumable state. Raises InputError when it is damaged."""
    verify_checksum(path)
    return torch.load(path, map_location=device, weights_only=True)
