"""Surfaces as safetensors with a checksum: networks, narrow-band grids, and residual SDFs."""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pmni.config.training import FieldSettings
from pmni.errors import InputError
from pmni.io.atomic import atomic_file
from pmni.io.hashing import verify_checksum, write_checksum
from pmni.sdf.block_grid import BLOCK, BlockGrid
from pmni.sdf.grid import GridSDF
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.network import NeuralSDF
from pmni.sdf.residual import ResidualSDF

BAND_KEYS = ("blocks", "values", "base", "seen")
"""Names of a narrow-band grid's tensors in a file."""


def save_surface(
    path: Path, surface: NeuralSDF | ResidualSDF, field: FieldSettings, step: int
) -> None:
    """Write a trained surface, and its checksum.

    Args:
        field: settings of its network, with which `load_surface` builds it again.
        step: training steps done, for people.
    """
    network = surface.correction if isinstance(surface, ResidualSDF) else surface
    tensors = dict(network.state_dict())
    metadata = {
        "field": field.model_dump_json(),
        "active_levels": str(network.active),
        "step": str(step),
    }
    if isinstance(surface, ResidualSDF):
        tensors |= _band_tensors(surface.surface)
        metadata["cells"] = str(surface.surface.grid.cells)
    _write(path, tensors, metadata)


def save_band(path: Path, surface: NarrowBandSDF) -> None:
    """Write a grid surface, and its checksum."""
    _write(path, _band_tensors(surface), {"cells": str(surface.grid.cells)})


def _band_tensors(surface: NarrowBandSDF) -> dict[str, Tensor]:
    blocks = surface.grid.blocks.to(torch.int16)
    observed = torch.ones_like(surface.values, dtype=torch.bool)
    observed = observed if surface.observed is None else surface.observed
    tensors = (blocks, surface.values, surface.background.values, observed)
    return dict(zip(BAND_KEYS, tensors, strict=True))


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    on_cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with atomic_file(path) as temporary:
        temporary.write_bytes(_with_sorted_metadata(safetensors.torch.save(on_cpu, metadata)))
    write_checksum(path)


def _with_sorted_metadata(content: bytes) -> bytes:
    """The content of a file with sorted metadata, so that equal surfaces have equal checksums.

    A safetensors file begins with the length of its JSON header, in eight bytes.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return content[:8] + ordered.ljust(end - 8) + content[end:]


def load_surface(
    path: Path, device: torch.device, backend: str | None = None
) -> NeuralSDF | NarrowBandSDF | ResidualSDF:
    """The surface in a file.

    Args:
        backend: implementation of a network; None takes that of its training.

    Raises InputError when the file is missing, damaged or of another kind.
    """
    verify_checksum(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        band = _band(int(metadata["cells"]), tensors, device) if "cells" in metadata else None
        if band is not None and "field" not in metadata:
            return band
        field = FieldSettings.parse(json.loads(metadata["field"]), str(path))
        active = int(metadata["active_levels"])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not a checkpoint of pmni") from None
    if backend is not None:
        field = field.model_copy(update={"backend": backend})
    network = NeuralSDF(field, seed=0)
    network.load_state_dict(tensors)
    network.active = active
    network = network.to(device).eval()
    return network if band is None else ResidualSDF(band, network)


def _band(cells: int, tensors: dict[str, Tensor], device: torch.device) -> NarrowBandSDF:
    """The grid surface; removes its tensors from `tensors`."""
    blocks, values, base, observed = (tensors.pop(key).to(device) for key in BAND_KEYS)
    side = cells // BLOCK + 1
    active = torch.zeros(side, side, side, dtype=torch.bool, device=device)
    active[blocks.long().unbind(-1)] = True
    return NarrowBandSDF(BlockGrid(cells, active), values, GridSDF(base), observed)
