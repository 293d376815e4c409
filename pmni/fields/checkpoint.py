"""Checkpoints of the surface as safetensors, guarded by a checksum: networks and grids."""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pmni.config.training import FieldSettings
from pmni.errors import InputError
from pmni.fields.band import BandSDF
from pmni.fields.block_grid import BLOCK, BlockGrid
from pmni.fields.grid import GridSDF
from pmni.fields.network import NeuralSDF
from pmni.io.atomic import atomic_file
from pmni.io.hashing import verify_checksum, write_checksum

# Every backend's hash grid is stored under the same name.
_TINYCUDA_KEY, _GRID_KEY = "encoding.grid.params", "encoding.params"


def save_surface(path: Path, network: NeuralSDF, field: FieldSettings, step: int) -> None:
    """Write the network as safetensors, with what is needed to rebuild it, and its checksum."""
    tensors = {
        key.replace(_TINYCUDA_KEY, _GRID_KEY): value for key, value in network.state_dict().items()
    }
    metadata = {
        "field": field.model_dump_json(),
        "active_levels": str(network.active),
        "step": str(step),
    }
    _write(path, tensors, metadata)


def save_band(path: Path, surface: BandSDF) -> None:
    """Write a grid surface as safetensors, and its checksum."""
    tensors = {
        "blocks": surface.grid.blocks.to(torch.int16),
        "values": surface.values,
        "base": surface.base.values,
    }
    _write(path, tensors, {"cells": str(surface.grid.cells)})


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    on_cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with atomic_file(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(on_cpu, metadata))
    write_checksum(path)


def load_surface(
    path: Path, device: torch.device, backend: str | None = None
) -> NeuralSDF | BandSDF:
    """The surface of a checkpoint; a network is computed by `backend` (None: the one it was
    trained with).

    Raises InputError when the file is missing, damaged or of another kind.
    """
    verify_checksum(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if "cells" in metadata:
            return _band(int(metadata["cells"]), tensors, device)
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


def _band(cells: int, tensors: Mapping[str, Tensor], device: torch.device) -> BandSDF:
    side = cells // BLOCK + 1
    active = torch.zeros(side, side, side, dtype=torch.bool, device=device)
    active[tensors["blocks"].long().to(device).unbind(-1)] = True
    base = GridSDF(tensors["base"].to(device))
    return BandSDF(BlockGrid(cells, active), tensors["values"].to(device), base)
