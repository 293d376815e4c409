"""SHA-256 of files, and the sidecar that guards a checkpoint against silent corruption."""

import hashlib
from pathlib import Path

from pmni.errors import InputError
from pmni.io.atomic import write_text


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sidecar(path: Path) -> Path:
    """Where the checksum of `path` is kept."""
    return path.with_name(path.name + ".sha256")


def write_checksum(path: Path) -> None:
    """Write `path`'s checksum beside it, in the format of `sha256sum`."""
    write_text(sidecar(path), f"{sha256(path)}  {path.name}\n")


def verify_checksum(path: Path) -> None:
    """Raise InputError unless `path` is there and matches the checksum beside it."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if not sidecar(path).is_file():
        raise InputError(f"{path}: its checksum {sidecar(path).name} is missing")
    if sidecar(path).read_text(encoding="utf-8").split()[:1] != [sha256(path)]:
        raise InputError(f"{path}: corrupted (its checksum does not match); run its stage again")
