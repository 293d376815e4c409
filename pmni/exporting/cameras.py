"""The cameras that every format is written from: pixels, and lengths in dataset units."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.geometry.cameras import invert_rigid
from pmni.geometry.poses import Poses

HALF_PIXEL = 0.5
"""From pixel centres at integers (here, NeuS) to pixel corners at integers (COLMAP, nerfstudio)."""
SKEW_SHIFT = 0.01
"""Pixels by which a skew may move a point before it counts as one."""


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
    """Its centre."""

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
    def colours(self) -> np.ndarray:
        """Red, green, blue (N, 3), 8 bits: the normals, as (n + 1) / 2."""
        return np.rint((self.normals + 1) / 2 * 255).astype(np.uint8)


def no_points() -> Points:
    """What there is without a mesh."""
    return Points(np.zeros((0, 3)), np.zeros((0, 3)))


def cameras_of(capture: Capture, poses: Poses, source: Path) -> Cameras:
    """The capture's views that have a pose (normalised world), in its order.

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
        if pixels > SKEW_SHIFT:
            raise InputError(
                f"view {view}: K has a skew of {K[0, 1]:.4g}, which {software} cannot hold; "
                f"calibrate without skew, or use cameras_sphere.npz"
            )


def sample_surface(
    vertices: Float[np.ndarray, "N 3"], faces: np.ndarray, count: int, seed: int = 0
) -> Points:
    """`count` points, about even in area, with their triangles' normals."""
    import trimesh

    mesh = trimesh.Trimesh(vertices, faces, process=False)
    positions, triangles = trimesh.sample.sample_surface(mesh, count, seed=seed)
    return Points(np.asarray(positions, np.float64), np.array(mesh.face_normals[triangles]))
