"""Integration at a lower resolution: a shrunk view, and its depth at its own resolution again."""

from math import ceil, sqrt

import numpy as np
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt

from pmni.data.capture import Capture
from pmni.data.resize import resized
from pmni.geometry.cameras import pixel_grid

LEAST_COSINE = 0.1
"""Planes at a right angle to the ray, or beyond, count as if they were this far from it."""
FARTHEST = 1.5
"""Shrunk pixels from the nearest one inside the mask beyond which the depth remains unknown."""


def shrunk(capture: Capture, most_pixels: int) -> Capture:
    """A capture of one view, shrunk by a whole number to at most so many pixels in its mask."""
    pixels = np.count_nonzero(capture.masks)
    return resized(capture, 1 / max(1, ceil(sqrt(pixels / most_pixels))))


def enlarged(
    depth: Float[np.ndarray, "h w"], small: Capture, capture: Capture
) -> Float[np.ndarray, "H W"]:
    """The z-depth of the view from that of the `small` one; NaN outside the mask.

    Each pixel lies on the tangent plane of its nearest shrunk pixel c, so that edges stay sharp:
    n . z m = n . z_c m_c with m = K^-1 (u, v, 1).
    """
    if small is capture:
        return depth
    mask, to_ray = capture.masks[0], np.linalg.inv(capture.intrinsics[0])
    pixels = pixel_grid(*mask.shape)[mask]
    m = pixels @ to_ray.T
    place = np.rint(m @ small.intrinsics[0].T)[:, 1::-1].astype(int)
    near = tuple(np.clip(place, 0, np.array(depth.shape) - 1).T)
    away, known = distance_transform_edt(np.isnan(depth), return_indices=True)
    c = known[0][near], known[1][near]
    n = small.normals[0][c].astype(np.float64)
    m_c = pixel_grid(*depth.shape)[c] @ np.linalg.inv(small.intrinsics[0]).T
    cosine, cosine_c = (np.minimum((n * ray).sum(-1), -LEAST_COSINE) for ray in (m, m_c))
    result = np.full(mask.shape, np.nan)
    result[mask] = np.where(away[near] <= FARTHEST, depth[c] * cosine_c / cosine, np.nan)
    return result
