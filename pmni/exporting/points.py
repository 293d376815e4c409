"""Points of the surface with normals and colours, as binary PLY."""

from pathlib import Path

import numpy as np

from pmni.exporting.exporter import Exporter
from pmni.exporting.scene import POINT_FILE, ExportScene, Points
from pmni.io.atomic import atomic_file

_RECORD = np.dtype([("position", "<f4", 3), ("normal", "<f4", 3), ("colour", "u1", 3)])
_HEADER = (
    "ply\nformat binary_little_endian 1.0\nelement vertex {count}\n"
    "property float x\nproperty float y\nproperty float z\n"
    "property float nx\nproperty float ny\nproperty float nz\n"
    "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
)


def write_points(path: Path, points: Points) -> None:
    """Write the points; colours show the normals."""
    rows = np.empty(len(points.positions), _RECORD)
    rows["position"], rows["normal"] = points.positions, points.normals
    rows["colour"] = points.colours
    with atomic_file(path) as temporary:
        temporary.write_bytes(_HEADER.format(count=len(rows)).encode("ascii") + rows.tobytes())


def _write(folder: Path, scene: ExportScene) -> None:
    """Write the file if there are points."""
    if len(scene.points.positions):
        write_points(folder / POINT_FILE, scene.points)


EXPORTER = Exporter(
    output=POINT_FILE,
    software="nerfstudio, and any viewer of point clouds",
    omits="the triangles: it is the start of methods that need points; the mesh has its own file",
    write=_write,
)
