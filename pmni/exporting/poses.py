"""Poses and intrinsics as plain JSON, which `pmni.io.poses.read_poses` understands."""

from pathlib import Path

import numpy as np

from pmni.errors import InputError
from pmni.exporting.exporter import Exporter
from pmni.exporting.scene import Cameras
from pmni.geometry.poses import Poses
from pmni.io.poses import read_poses, write_poses

FRAME = "dataset world; OpenCV cameras (x right, y down, z forward), pixel centres at integers"
"""The conventions of the file, which it holds in words."""


def write_json(path: Path, cameras: Cameras) -> None:
    """Write all that the other formats hold of the cameras."""
    intrinsics = zip(cameras.views, cameras.intrinsics.tolist(), strict=True)
    information = {
        "frame": FRAME,
        "image_size": [cameras.size[1], cameras.size[0]],
        "sphere": {"centre": cameras.offset.tolist(), "radius": cameras.scale},
        "intrinsics": dict(intrinsics),
    }
    write_poses(path, Poses(cameras.views, cameras.c2w, information))


def read_json(path: Path) -> Cameras:
    """The cameras of a file that `write_json` has written. Raises InputError naming it."""
    poses = read_poses(path)
    try:
        width, height = poses.information["image_size"]
        sphere, intrinsics = poses.information["sphere"], poses.information["intrinsics"]
        return Cameras(
            poses.views,
            (int(height), int(width)),
            np.array([intrinsics[view] for view in poses.views], np.float64),
            poses.c2w,
            float(sphere["radius"]),
            np.array(sphere["centre"], np.float64),
        )
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: holds no intrinsics, image size and sphere") from None


EXPORTER = Exporter(
    output="poses.json",
    software="any program, by a few lines of code",
    omits="images and points: it is about cameras",
    write=lambda folder, scene: write_json(folder / "poses.json", scene.cameras),
)
