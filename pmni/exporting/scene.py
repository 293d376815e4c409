"""What exporters write: cameras, points of the surface, and the images of a capture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.geometry.cameras import invert_rigid
from pmni.geometry.poses import Poses

NORMAL_FOLDER = "normal_camera_space"
"""Folder of the exported normal maps."""

MASK_FOLDER = "mask"
"""Folder of the exported masks."""

POINT_FILE = "points.ply"
"""File of the exported points of the surface."""

HALF_PIXEL = 0.5
"""From pixel centres at integers (here, NeuS) to pixel corners at integers (COLMAP, nerfstudio)."""

MAX_SKEW_SHIFT = 0.01
"""Largest shift of a point by a skew, in pixels, that counts as no skew."""


@dataclass(frozen=True)
class Cameras:
    """Pinhole cameras of some views: OpenCV axes, pixel centres at integers, dataset units."""

    views: tuple[str, ...]
    size: tuple[int, int]
    """Height and width of the images, pixels."""
    intrinsics: Float[np.ndarray, "V 3 3"]
    c2w: Float[np.ndarray, "V 4 4"]
    scale: float
    """Radius of the sphere around the object."""
    offset: Float[np.ndarray, "3"]
    """Centre of the sphere around the object."""

    @property
    def w2c(self) -> Float[np.ndarray, "V 4 4"]:
        """World to camera."""
        return invert_rigid(self.c2w)


@dataclass(frozen=True)
class Points:
    """Points of the surface in dataset units, with unit outward normals."""

    positions: Float[np.ndarray, "N 3"]
    normals: Float[np.ndarray, "N 3"]

    @property
    def colours(self) -> UInt8[np.ndarray, "N 3"]:
        """Red, green, blue: the normals, as (n + 1) / 2."""
        return np.rint((self.normals + 1) / 2 * 255).astype(np.uint8)


def no_points() -> Points:
    """The empty set of points, for results without a mesh."""
    return Points(np.zeros((0, 3)), np.zeros((0, 3)))


@dataclass(frozen=True)
class ExportScene:
    """A result as exporters get it."""

    capture: Capture
    """Normal maps and masks."""
    cameras: Cameras
    """Those of the capture's views that have a pose."""
    points: Points
    """Points of the surface; empty without a mesh."""

    @property
    def image_names(self) -> list[str]:
        """Name of each camera's image files."""
        return [f"{view}.png" for view in self.cameras.views]


def cameras_of(capture: Capture, poses: Poses, source: Path | str) -> Cameras:
    """Cameras of the capture's views that have a pose (normalised world), in the capture's order.

    Raises InputError, which names `source`, when no view has one.
    """
    views = tuple(view for view in capture.views if view in poses.views)
    if not views:
        raise InputError(f"{source}: has no pose of any view of '{capture.name}'")
    c2w = poses.select(views).copy()
    c2w[:, :3, 3] = capture.to_dataset(c2w[:, :3, 3])
    height, width = capture.masks.shape[1:]
    rows = [capture.views.index(view) for view in views]
    intrinsics = capture.intrinsics[rows].astype(np.float64)
    return Cameras(views, (height, width), intrinsics, c2w, capture.scale, capture.offset)


def check_no_skew(cameras: Cameras, software: str) -> None:
    """Raise InputError naming the first view whose K has a skew, which `software` cannot hold."""
    shift = np.abs(cameras.intrinsics[:, 0, 1] / cameras.intrinsics[:, 1, 1]) * cameras.size[0]
    for view, pixels, K in zip(cameras.views, shift, cameras.intrinsics, strict=True):
        if pixels > MAX_SKEW_SHIFT:
            raise InputError(
                f"view {view}: K has a skew of {K[0, 1]:.4g}, which {software} cannot hold; "
                f"calibrate without skew, or use cameras_sphere.npz"
            )


def sample_surface(
    vertices: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "F 3"], count: int, seed: int = 0
) -> Points:
    """`count` random points, uniform in area, with their triangles' normals."""
    import trimesh

    mesh = trimesh.Trimesh(vertices, faces, process=False)
    positions, triangles = trimesh.sample.sample_surface(mesh, count, seed=seed)
    return Points(np.asarray(positions, np.float64), np.array(mesh.face_normals[triangles]))
