"""The layout of a dataset folder, found by its files."""

from pathlib import Path

from pmni.config.extensions import READERS
from pmni.errors import InputError


def detect_layout(folder: Path) -> str:
    """The name of the layout of a folder. Raises InputError when no reader recognises it."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    for name in READERS:
        if READERS[name].matches(folder):
            return name
    known = "; ".join(f"{name}: {READERS[name].summary}" for name in READERS)
    raise InputError(
        f"{folder}: not laid out as a capture ({known}); name the layout, and "
        "the message says which file it lacks"
    )


def only_normal_set(folder: Path, layout: str) -> str:
    """The name of the measured normal set of a folder, or of the ground truth if it is alone.

    Raises InputError when there are several to choose from, or none.
    """
    sets = READERS[layout].normal_sets(folder)
    measured = [name for name in sets if not name.endswith("_GT")] or sets
    if len(measured) != 1:
        names = ", ".join(sets) or "none"
        raise InputError(f"{folder}: name the normal set to read; there are: {names}")
    return str(measured[0])
