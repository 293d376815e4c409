"""Integration at a lower resolution: a downsampled view, and its depth at full resolution."""

from math import ceil, sqrt

import numpy as np
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt

from pmni.config.integration import DownsamplingSettings
from pmni.data.capture import Capture
from pmni.data.resize import resized
from pmni.geometry.cameras import pixel_grid


def downsample(capture: Capture, max_pixels: int) -> Capture:
    """A capture of one view, downsampled by an integer factor to at most `max_pixels` in its
    mask."""
    pixels = np.count_nonzero(capture.masks)
    return resized(capture, 1 / max(1, ceil(sqrt(pixels / max_pixels))))


def upsample_depth(
    depth: Float[np.ndarray, "h w"],
    small: Capture,
    capture: Capture,
    settings: DownsamplingSettings,
) -> Float[np.ndarray, "H W"]:
    """The z-depth of the view from that of the downsampled view `small`; NaN outside the mask.

    Each pixel lies on the tangent plane of the nearest downsampled pixel c, so that depth
    discontinuities stay sharp: n . z m = n . z_c m_c with m = K^-1 (u, v, 1).
    """
    if small is capture:
        return depth
    mask, K_inverse = capture.masks[0], np.linalg.inv(capture.intrinsics[0])
    m = pixel_grid(*mask.shape)[mask] @ K_inverse.T
    pixel = np.rint(m @ small.intrinsics[0].T)[:, 1::-1].astype(int)
    row_column = tuple(np.clip(pixel, 0, np.array(depth.shape) - 1).T)
    distance, nearest = distance_transform_edt(np.isnan(depth), return_indices=True)
    c = nearest[0][row_column], nearest[1][row_column]
    n = small.normals[0][c].astype(np.float64)
    m_c = pixel_grid(*depth.shape)[c] @ np.linalg.inv(small.intrinsics[0]).T
    cosine, cosine_c = (np.minimum((n * ray).sum(-1), -settings.min_cosine) for ray in (m, m_c))
    near = distance[row_column] <= settings.max_distance
    upsampled = np.full(mask.shape, np.nan)
    upsampled[mask] = np.where(near, depth[c] * cosine_c / cosine, np.nan)
    return upsampled
