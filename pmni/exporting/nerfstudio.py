"""nerfstudio's `transforms.json`, also read by instant-ngp.

Poses are camera to world with OpenGL axes (x right, y up, z backwards), in the dataset's world as
it is (`applied_transform` is the identity). Rays leave through pixel centres at (u + 0.5,
v + 0.5), so that principal points are moved by a half.
Format: https://docs.nerf.studio/quickstart/data_conventions.html
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pmni.exporting.cameras import HALF_PIXEL, Cameras, Points, check_no_skew
from pmni.io.atomic import atomic_file, write_text

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
"""OpenCV's camera axes <-> OpenGL's."""


def write_transforms(
    path: Path,
    cameras: Cameras,
    images: Sequence[str],
    masks: Sequence[str],
    normals: Sequence[str],
    points: str | None,
) -> None:
    """Write the file. All file names are relative to its folder, one a view; `points` is a PLY.

    Raises InputError for a skew, which the format cannot hold.
    """
    check_no_skew(cameras, "nerfstudio")
    height, width = cameras.size
    frames: list[dict[str, Any]] = []
    for index, image in enumerate(images):
        K = cameras.intrinsics[index]
        frames.append(
            {
                "file_path": image,
                "mask_path": masks[index],
                "normal_file_path": normals[index],
                "fl_x": K[0, 0],
                "fl_y": K[1, 1],
                "cx": K[0, 2] + HALF_PIXEL,
                "cy": K[1, 2] + HALF_PIXEL,
                "w": width,
                "h": height,
                "transform_matrix": (cameras.c2w[index] @ OPENGL).tolist(),
            }
        )
    content: dict[str, Any] = {
        "camera_model": "PINHOLE",
        "applied_transform": np.eye(4)[:3].tolist(),
    }
    content |= {"ply_file_path": points} if points else {}
    write_text(path, json.dumps({**content, "frames": frames}, indent=1) + "\n")


_POINT = np.dtype([("position", "<f4", 3), ("normal", "<f4", 3), ("colour", "u1", 3)])
_HEADER = (
    "ply\nformat binary_little_endian 1.0\nelement vertex {count}\n"
    "property float x\nproperty float y\nproperty float z\n"
    "property float nx\nproperty float ny\nproperty float nz\n"
    "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
)


def write_points(path: Path, points: Points) -> None:
    """Write coloured points with normals as binary PLY."""
    rows = np.empty(len(points.positions), _POINT)
    rows["position"], rows["normal"] = points.positions, points.normals
    rows["colour"] = points.colours
    with atomic_file(path) as temporary:
        temporary.write_bytes(_HEADER.format(count=len(rows)).encode("ascii") + rows.tobytes())
