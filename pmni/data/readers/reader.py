"""The interface of readers: how a folder of some layout becomes a raw capture."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pmni.data.readers.raw import RawCapture


@dataclass(frozen=True)
class Reader:
    """One layout of dataset folders."""

    summary: str
    """What the layout is, in a phrase."""
    matches: Callable[[Path], bool]
    """Whether a folder is laid out so; looks at names of files only."""
    normal_sets: Callable[[Path], list[str]]
    """The normal sets in a folder, ground truth last."""
    read: Callable[[Path, str, float], RawCapture]
    """Reads a folder's normal set. The last argument multiplies ray distances that come with the
    data. Raises InputError."""
