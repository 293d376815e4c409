"""Dataset folders -> captures: one reader for each layout, one set of checks for all."""

import logging
from pathlib import Path

from pmni.config.capture import PrepareSettings
from pmni.config.extensions import READERS
from pmni.data.capture import Capture
from pmni.data.readers.raw import assemble
from pmni.data.readers.reader import Reader
from pmni.errors import InputError

__all__ = ["Reader", "detect_layout", "load_dataset", "read_capture"]

log = logging.getLogger("pmni.data")


def detect_layout(folder: Path) -> str:
    """The name of the layout of a folder. Raises InputError when no reader recognises it."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    for name in READERS:
        if READERS[name].matches(folder):
            return name
    known = "; ".join(f"{name}: {READERS[name].summary}" for name in READERS)
    raise InputError(f"{folder}: not laid out as a capture ({known})")


def load_dataset(folder: Path, normals: str | None, layout: str | None) -> Capture:
    """The capture in a dataset folder; layout and normal set are detected where they are None.

    Raises InputError when there are several normal sets to choose from.
    """
    layout = layout or detect_layout(folder)
    if normals is None:
        sets = READERS[layout].normal_sets(folder)
        measured = [name for name in sets if not name.endswith("_GT")] or sets
        if len(measured) != 1:
            found = ", ".join(sets) or "none"
            raise InputError(f"{folder}: name the normal set to read; there are: {found}")
        normals = measured[0]
    return read_capture(layout, folder, folder.resolve().name, normals)[0]


def read_capture(
    layout: str,
    folder: Path,
    name: str,
    normals: str,
    settings: PrepareSettings | None = None,
) -> tuple[Capture, dict[str, Path]]:
    """Read and check one object; returns the capture and the files that it was read from.

    `normals` names the normal set as the layout does (see each reader). Raises InputError, one line
    that names file and view, for everything that is wrong with the folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder (object '{name}')")
    raw = READERS[layout].read(folder, normals)
    capture = assemble(raw, name, settings or PrepareSettings())
    files = {str(path.relative_to(folder)): path for path in raw.all_files()}
    reference = "no poses" if capture.reference_c2w is None else "reference poses"
    views, height, width = capture.masks.shape
    log.info("%s: %d views of %d x %d, %s", name, views, width, height, reference)
    return capture, files
