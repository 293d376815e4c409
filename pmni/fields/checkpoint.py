"""Checkpoints of the surface: safetensors that rebuild the network, guarded by a checksum."""

import json
from pathlib import Path

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
