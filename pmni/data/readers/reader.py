"""The interface of readers: how a folder of some layout becomes a raw capture."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pmni.data.readers.raw import RawCapture


@dataclass(frozen=True)
class Reader:
    """One layout of dataset folders."""

    summary: str
    """The files by which the layout is known, for messages."""
    matches: Callable[[Path], bool]
    """Whether a folder has this layout, by the names of its files."""
    normal_sets: Callable[[Path], list[str]]
    """The normal sets in a folder, ground truth last."""
    read: Callable[[Path, str], RawCapture]
    """Reads the named normal set of a folder. Raises InputError."""
