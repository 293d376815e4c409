"""The normalised world: a unit sphere around the object, X_dataset = scale * X_normalised +
offset."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import binary_erosion

from pmni.errors import InputError
from pmni.geometry.cameras import pixel_grid, project, ray_directions
from pmni.geometry.mesh import Mesh
from pmni.geometry.rays import nearest_point

MIN_SPREAD = 1e-4
"""Smallest mean squared sine between the viewing directions and their principal direction."""


@dataclass(frozen=True)
class Normalisation:
    """The sphere around an object, in dataset units."""

    scale: float
    """Radius of the sphere."""
    offset: Float[np.ndarray, "3"]
    """Centre of the sphere."""

    def cameras(self, c2w: Float[np.ndarray, "V 4 4"]) -> Float[np.ndarray, "V 4 4"]:
        """Camera-to-world poses of the dataset's world in the normalised world."""
        moved = c2w.copy()
        moved[:, :3, 3] = (c2w[:, :3, 3] - self.offset) / self.scale
        return moved


def around_mesh(mesh: Mesh, margin: float = 1.1) -> Normalisation:
    """The sphere about the middle of the mesh's bounding box, `margin` times as large as it is."""
    used = mesh.vertices[np.unique(mesh.faces)]
    offset = (used.min(0) + used.max(0)) / 2
    return Normalisation(margin * float(np.linalg.norm(used - offset, axis=1).max()), offset)


def around_views(
    c2w: Float[np.ndarray, "V 4 4"],
    intrinsics: Float[np.ndarray, "V 3 3"],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    views: Sequence[str],
    source: str,
    margin: float = 1.2,
) -> Normalisation:
    """The sphere about the point nearest to the rays through the middles of the masks.

    The radius is the largest
    distance of a ray through a mask's outline, times `margin`.
    Raises InputError, which names `source`, when all cameras look in the same direction or the
    point is nowhere near a view's mask.
    """
    inverses = np.linalg.inv(intrinsics)
    middles = np.stack([np.append(_box(mask)[0], 1.0) for mask in masks])
    directions = (c2w[:, :3, :3] @ ray_directions(middles, inverses)[..., None])[..., 0]
    alignment = np.linalg.eigvalsh(directions.T @ directions)[-1] / len(masks)
    if 1 - alignment < MIN_SPREAD:
        raise InputError(f"{source}: all views: the cameras all look in the same direction")
    offset = nearest_point(c2w[:, :3, 3], directions)
    radius = 0.0
    for pose, K, inverse, mask, view in zip(c2w, intrinsics, inverses, masks, views, strict=True):
        middle, half = _box(mask)
        pixel, depth = project((offset - pose[:3, 3]) @ pose[:3, :3], K)
        if depth <= 0 or (np.abs(pixel - middle) > 2 * half).any():
            raise InputError(
                f"{source}: view {view}: the poses do not look at one object: expected are "
                f"camera-to-world poses with OpenCV axes (x right, y down, z forward)"
            )
        outline = mask & ~binary_erosion(mask)
        rays = ray_directions(pixel_grid(*mask.shape)[outline], inverse) @ pose[:3, :3].T
        radius = max(radius, np.linalg.norm(np.cross(offset - pose[:3, 3], rays), axis=1).max())
    return Normalisation(margin * float(radius), offset)


def _box(mask: Bool[np.ndarray, "H W"]) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
    """Middle and half size of a mask's bounding box, (u, v)."""
    row, column = np.nonzero(mask)
    low = np.array([column.min(), row.min()], np.float64)
    high = np.array([column.max(), row.max()], np.float64)
    return (low + high) / 2, (high - low + 1) / 2
