"""What cameras see of a surface: exact masks, normals and distances."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from pmni.geometry.cameras import pixel_grid, ray_directions
from pmni.geometry.mesh import Mesh

_RAYS_AT_ONCE = 1_500_000


@runtime_checkable
class Surface(Protocol):
    """Something that rays can hit."""

    mesh: Mesh

    def trace(
        self, origins: Float[np.ndarray, "N 3"], directions: Float[np.ndarray, "N 3"]
    ) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
        """Distances to the first hits along unit directions, NaN for a miss, and the unit
        outward normals there, zero for a miss."""


@dataclass(frozen=True)
class View:
    """One image: rays go through the pixel centres."""

    mask: Bool[np.ndarray, "H W"]
    normals: Float[np.ndarray, "H W 3"]
    """Unit normals in the camera frame, zero outside the mask."""
    ray_distance: Float[np.ndarray, "H W"]
    """NaN outside the mask."""
    rays: Float[np.ndarray, "H W 3"]
    """Unit viewing directions in the camera frame."""

    @property
    def depth(self) -> Float[np.ndarray, "H W"]:
        """Depth along the optical axis, NaN outside the mask."""
        return self.ray_distance * self.rays[..., 2]


def render(
    surface: Surface,
    K: Float[np.ndarray, "3 3"],
    c2w: Float[np.ndarray, "V 4 4"],
    height: int,
    width: int,
) -> Iterator[View]:
    """The views in order; several are traced at once as long as that takes little memory."""
    rays = ray_directions(pixel_grid(height, width), np.linalg.inv(K))
    group = max(1, _RAYS_AT_ONCE // (height * width))
    for start in range(0, len(c2w), group):
        poses = c2w[start : start + group]
        directions = np.einsum("vij,hwj->vhwi", poses[:, :3, :3], rays)
        origins = np.broadcast_to(poses[:, None, None, :3, 3], directions.shape)
        distances, normals = surface.trace(origins.reshape(-1, 3), directions.reshape(-1, 3))
        normals = normals.reshape(directions.shape) @ poses[:, None, :3, :3]
        for distance, normal in zip(distances.reshape(normals.shape[:3]), normals, strict=True):
            yield View(np.isfinite(distance), normal, distance, rays)
