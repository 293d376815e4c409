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

from pmni.exporting.exporter import Exporter
from pmni.exporting.scene import (
    HALF_PIXEL,
    MASK_FOLDER,
    NORMAL_FOLDER,
    POINT_FILE,
    Cameras,
    ExportScene,
    check_no_skew,
)
from pmni.io.atomic import write_text

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
"""From OpenCV's camera axes to OpenGL's, and back."""


def write_transforms(
    path: Path,
    cameras: Cameras,
    images: Sequence[str],
    masks: Sequence[str],
    normals: Sequence[str],
    points: str | None,
) -> None:
    """Write the file; names of files are relative to its folder, one per view, `points` a PLY.

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


def write_nerfstudio(folder: Path, scene: ExportScene) -> None:
    """Write `transforms.json`, in which the normal maps stand for photographs."""
    normals = [f"{NORMAL_FOLDER}/{name}" for name in scene.image_names]
    masks = [f"{MASK_FOLDER}/{name}" for name in scene.image_names]
    points = POINT_FILE if len(scene.points.positions) else None
    write_transforms(folder / "transforms.json", scene.cameras, normals, masks, normals, points)


EXPORTER = Exporter(
    output="transforms.json",
    software="nerfstudio, instant-ngp",
    omits="a skew of the pixels: the format has no field for it",
    requires=("supernormal", "points"),
    write=write_nerfstudio,
)
