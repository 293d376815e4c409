"""z-depth and ray distance of perspective cameras, and the points that they stand for."""

import numpy as np
from jaxtyping import Float

from pmni.geometry.cameras import pixel_grid, ray_directions


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
