"""Writes a scene in the formats that the settings ask for."""

from pathlib import Path

from pmni.config.export import ExportSettings
from pmni.config.extensions import EXPORTERS
from pmni.errors import InputError
from pmni.exporting.exporter import Exporter
from pmni.exporting.scene import ExportScene


def chosen_exporters(settings: ExportSettings) -> dict[str, Exporter]:
    """The exporters that the settings name (all, if they name none) and those that these require,
    in the registry's order."""
    names = set(EXPORTERS if settings.formats is None else settings.formats)
    names |= {required for name in names for required in EXPORTERS[name].requires}
    return {name: EXPORTERS[name] for name in EXPORTERS if name in names}


def write_exports(folder: Path, scene: ExportScene, settings: ExportSettings) -> dict[str, str]:
    """Write the scene in all chosen formats.

    Returns the outputs that are left out because their format cannot hold the scene, with reasons.
    """
    left_out = {}
    for exporter in chosen_exporters(settings).values():
        try:
            exporter.write(folder, scene)
        except InputError as error:
            left_out[exporter.output] = str(error)
    return left_out
