"""The resumable state of a training, guarded by a checksum, and the names of its steps."""

import io
from pathlib import Path
from typing import Any

import torch

from pmni.io.atomic import atomic_file
from pmni.io.hashing import verify_checksum, write_checksum


def iteration_name(step: int) -> str:
    """The stem of all files of a step, such as iter_00030000."""
    return f"iter_{step:08d}"


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
