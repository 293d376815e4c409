"""The interface of readers: how a folder of some layout becomes a raw capture."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pmni.config.capture import PrepareSettings
from pmni.data.capture import Capture
from pmni.data.readers.raw import RawCapture, assemble
from pmni.errors import InputError

log = logging.getLogger("pmni.data")


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

    def load(
        self, folder: Path, name: str, normals: str, settings: PrepareSettings | None = None
    ) -> tuple[Capture, dict[str, Path]]:
        """The validated capture of an object, and the files that it was read from.

        `normals` names the normal set as the layout does. Raises InputError, one line that names
        file and view, for everything that is wrong with the folder.
        """
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder (object '{name}')")
        raw = self.read(folder, normals)
        capture = assemble(raw, name, settings or PrepareSettings())
        files = {str(path.relative_to(folder)): path for path in raw.all_files()}
        reference = "no poses" if capture.reference_c2w is None else "reference poses"
        views, height, width = capture.masks.shape
        log.info("%s: %d views of %d x %d, %s", name, views, width, height, reference)
        return capture, files
