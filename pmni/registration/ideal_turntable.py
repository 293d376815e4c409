"""An ideal turntable: cameras at equal steps on a circle about the object, in the views' order."""

import numpy as np
from jaxtyping import Bool, Float

from pmni.geometry.cameras import pixel_grid, ray_directions, turntable

OBJECT_RADIUS = 0.8
"""Radius of the largest silhouette in the normalised world, where its size sets the distance."""


def ideal_turntable(
    masks: Bool[np.ndarray, "V H W"],
    intrinsics: Float[np.ndarray, "V 3 3"],
    elevation: float,
    radius: float | None,
    clockwise: bool,
) -> Float[np.ndarray, "V 4 4"]:
    """c2w of cameras whose axes have the same elevation (radians) and equal steps of azimuth.

    The turntable's axis stays on one pixel while the object turns: the mean of the masks' centres.
    Its ray passes through the world's origin in each view. The distance is `radius`, or such that
    the largest silhouette has the radius OBJECT_RADIUS.
    """
    steps = np.arange(len(masks)) * (2 * np.pi / len(masks))
    c2w = turntable(-steps if clockwise else steps, elevation, 1.0)
    rays = [silhouette_rays(mask, K) for mask, K in zip(masks, intrinsics, strict=True)]
    centre = np.mean([mean_direction(directions) for directions in rays], axis=0)
    centre /= np.linalg.norm(centre)
    if radius is None:
        widest = max(np.arccos((directions @ centre).min()) for directions in rays)
        radius = OBJECT_RADIUS / np.sin(widest)
    c2w[:, :3, 3] = -radius * (c2w[:, :3, :3] @ centre)
    return c2w


def silhouette_rays(
    mask: Bool[np.ndarray, "H W"], K: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "N 3"]:
    """Unit directions of the mask's pixels in the camera frame."""
    return ray_directions(pixel_grid(*mask.shape)[mask], np.linalg.inv(K))


def mean_direction(directions: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "3"]:
    """The normalised mean of unit directions."""
    mean = directions.mean(0)
    return mean / np.linalg.norm(mean)
