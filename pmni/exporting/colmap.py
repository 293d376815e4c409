"""COLMAP's text model: cameras.txt, images.txt, points3D.txt.

Poses are world to camera with OpenCV axes, as quaternion (w first) and translation. COLMAP's
pixel (0.5, 0.5) is the centre of the first one, so that principal points are moved by a half.
Format: https://colmap.github.io/format.html
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from pmni.errors import InputError
from pmni.exporting.exporter import Exporter
from pmni.exporting.scene import HALF_PIXEL, Cameras, ExportScene, Points, check_no_skew
from pmni.io.atomic import write_text

UNKNOWN_ERROR = -1
"""Reprojection error of points that were not triangulated."""


def write_colmap(folder: Path, cameras: Cameras, images: Sequence[str], points: Points) -> None:
    """Write a model into `folder`; `images` are the names of the image files.

    Views with the same intrinsics share a camera. The points are sampled from the mesh, not matched
    between images, so that they have no tracks.
    Raises InputError for names with spaces and for a skew, which the format cannot hold.
    """
    check_no_skew(cameras, "COLMAP")
    for view, image in zip(cameras.views, images, strict=True):
        if len(image.split()) != 1:
            raise InputError(f"view {view}: COLMAP cannot hold names with spaces; rename its files")
    models = [_numbers(_parameters(K)) for K in cameras.intrinsics]
    distinct = list(dict.fromkeys(models))
    size = f"{cameras.size[1]} {cameras.size[0]}"
    _write(
        folder / "cameras.txt",
        "CAMERA_ID MODEL WIDTH HEIGHT FX FY CX CY",
        (f"{number} PINHOLE {size} {model}" for number, model in enumerate(distinct, start=1)),
    )
    _write(
        folder / "images.txt",
        "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of 2D points (none)",
        (
            f"{number} {_numbers([*quaternion(w2c), *w2c[:3, 3]])} {distinct.index(model) + 1}"
            f" {image}\n"
            for number, (w2c, model, image) in enumerate(
                zip(cameras.w2c, models, images, strict=True), start=1
            )
        ),
    )
    _write(
        folder / "points3D.txt",
        "POINT3D_ID X Y Z R G B ERROR TRACK[] (none)",
        (
            f"{number} {x:.6g} {y:.6g} {z:.6g} {red} {green} {blue} {UNKNOWN_ERROR}"
            for number, ((x, y, z), (red, green, blue)) in enumerate(
                zip(points.positions, points.colours, strict=True), start=1
            )
        ),
    )


def quaternion(w2c: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4"]:
    """Unit quaternion (w, x, y, z), w >= 0."""
    return np.roll(Rotation.from_matrix(w2c[:3, :3]).as_quat(canonical=True), 1)


def _parameters(K: Float[np.ndarray, "3 3"]) -> list[float]:
    return [K[0, 0], K[1, 1], K[0, 2] + HALF_PIXEL, K[1, 2] + HALF_PIXEL]


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.13g}" for value in values)


def _write(path: Path, head: str, lines: Iterable[str]) -> None:
    write_text(path, "\n".join([f"# {head}", *lines]) + "\n")


def _write_scene(folder: Path, scene: ExportScene) -> None:
    """Write the model into `sparse/0`, where COLMAP's own programs put it."""
    write_colmap(folder / "sparse/0", scene.cameras, scene.image_names, scene.points)


EXPORTER = Exporter(
    output="sparse",
    software="COLMAP, 3D Gaussian splatting",
    omits="a skew of the pixels, for which its pinhole camera has no parameter; names of views "
    "with spaces, which separate the fields of its text files",
    write=_write_scene,
)
