"""Results in the formats of other software, one exporter each, and a figure of the cameras."""

from pmni.exporting.exporter import Exporter
from pmni.exporting.scene import Cameras, ExportScene, Points

__all__ = ["Cameras", "ExportScene", "Exporter", "Points"]
