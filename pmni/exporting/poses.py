"""Poses and intrinsics as plain JSON, which `pmni.io.poses.read_poses` understands."""

from pathlib import Path

from pmni.exporting.exporter import Exporter
from pmni.exporting.scene import Cameras
from pmni.geometry.poses import Poses
from pmni.io.poses import write_poses

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


EXPORTER = Exporter(
    output="poses.json",
    software="any program, by a few lines of code",
    omits="images and points: it is about cameras",
    write=lambda folder, scene: write_json(folder / "poses.json", scene.cameras),
)
