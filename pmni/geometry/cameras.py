"""Pinhole cameras: OpenCV axes (x right, y down, z forward), pixel centres at integers.

The functions with `Array` work on NumPy arrays and PyTorch tensors alike.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

Array: TypeAlias = Any


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: OpenCV axes (x right, y down, z forward), pixel centres at integers."""

    intrinsics: Float[np.ndarray, "3 3"]
    """Camera matrix K, pixels."""
    c2w: Float[np.ndarray, "4 4"]
    """Camera to world."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""


def pixel_grid(height: int, width: int) -> Float[np.ndarray, "H W 3"]:
    """Homogeneous pixel coordinates (u, v, 1); u is the column, v the row."""
    v, u = np.mgrid[:height, :width].astype(np.float64)
    return np.stack([u, v, np.ones_like(u)], axis=-1)


def ray_directions(pixels: Array, K_inverse: Array) -> Array:
    """Unit viewing directions (..., 3) in the camera frame of pixels (..., 3) = (u, v, 1).

    `K_inverse` is (..., 3, 3), broadcast against the pixels' leading axes.
    """
    directions = (K_inverse @ pixels[..., None])[..., 0]
    return directions / ((directions**2).sum(-1) ** 0.5)[..., None]


def project(points: Array, K: Array) -> tuple[Array, Array]:
    """Pixels (..., 2) and z-depths (...) of camera-frame points (..., 3)."""
    homogeneous = (K @ points[..., None])[..., 0]
    depth = homogeneous[..., 2]
    return homogeneous[..., :2] / depth[..., None], depth


def ray_distance_of_depth(
    depth: Float[np.ndarray, "H W"], K: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "H W"]:
    """Distance along each pixel's viewing ray of points whose z is `depth`: z |K^-1 (u, v, 1)|."""
    m = pixel_grid(*depth.shape) @ np.linalg.inv(K).T
    return depth * np.linalg.norm(m, axis=-1)


def points_of_ray_distance(
    distance: Float[np.ndarray, "H W"], K: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "H W 3"]:
    """Camera-frame points at `distance` along each pixel's viewing ray."""
    return distance[..., None] * ray_directions(pixel_grid(*distance.shape), np.linalg.inv(K))


def flip_yz(vectors: Array) -> Array:
    """Camera-frame vectors (..., 3) in the axes of normal maps on disk, or back: y and z negated.

    The camera frame is OpenCV's (x right, y down, z forward). Camera-space normal maps, and their
    usual colours, have OpenGL's axes (x right, y up, z towards the camera).
    """
    flipped = vectors * 1
    flipped[..., 1:] *= -1
    return flipped


def invert_rigid(transform: Array) -> Array:
    """The inverse of rigid transforms (..., 4, 4): c2w <-> w2c."""
    inverse = transform * 1
    rotation = transform[..., :3, :3].swapaxes(-1, -2)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ transform[..., :3, 3:])[..., 0]
    return inverse


def look_at(
    position: Float[np.ndarray, "3"],
    target: Float[np.ndarray, "3"],
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
    roll: float = 0.0,
) -> Float[np.ndarray, "4 4"]:
    """c2w of a camera at `position` that sees `target` at the centre of its axis, `up` upwards.

    `roll` turns it about its viewing direction (radians).
    """
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cosine, sine = np.cos(roll), np.sin(roll)
    c2w = np.eye(4)
    c2w[:3, 0] = cosine * right + sine * down
    c2w[:3, 1] = cosine * down - sine * right
    c2w[:3, 2] = forward
    c2w[:3, 3] = position
    return c2w


def turntable(
    azimuths: Float[np.ndarray, " V"], elevation: float, radius: float
) -> Float[np.ndarray, "V 4 4"]:
    """c2w of cameras on a circle about the z axis that look at the origin (angles in radians)."""
    cosine, sine = np.cos(elevation), np.sin(elevation)
    positions = radius * np.stack(
        [cosine * np.cos(azimuths), cosine * np.sin(azimuths), np.full(len(azimuths), sine)], -1
    )
    return np.stack([look_at(position, np.zeros(3)) for position in positions])
