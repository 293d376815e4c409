"""What an exporter is: one file format of results for other software."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pmni.exporting.scene import ExportScene


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """A file format."""

    output: str
    """The file or folder that it writes, relative to the folder of the exports."""
    software: str
    """The software that reads it."""
    omits: str = ""
    """What of a scene the format cannot hold, and why; empty if it holds all that it is for."""
    requires: tuple[str, ...] = ()
    """Names of the exporters whose files it refers to, which are written too."""
    write: Callable[[Path, ExportScene], None]
    """Writes a scene into the folder of the exports. Raises InputError, before anything is written,
    for a scene that the format cannot hold."""
