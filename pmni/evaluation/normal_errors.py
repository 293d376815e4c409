"""Angles between a surface's normals and the ground truth's, ray by ray and as maps."""

import numpy as np
from jaxtyping import Bool, Float, Float16

from pmni.data.capture import Capture
from pmni.evaluation.distances import angle_deg
from pmni.geometry.ray_casting import Hits, Rays


def ground_truth_normals_of(
    capture: Capture, rays: Rays, hits: Hits, reference: Float[np.ndarray, "V 4 4"]
) -> tuple[Float[np.ndarray, "P 3"], str]:
    """Ground-truth normals of the rays, world frame, NaN where unknown; and their source: the
    capture's maps, or else the ground-truth mesh."""
    if capture.ground_truth_normals is None:
        normals = np.full((len(rays.view), 3), np.nan)
        normals[hits.mask] = hits.normals
        return normals, "ground_truth_mesh"
    return capture_normals_of(capture, rays, capture.masks, reference)


def capture_normals_of(
    capture: Capture, rays: Rays, masks: Bool[np.ndarray, "V H W"], c2w: Float[np.ndarray, "V 4 4"]
) -> tuple[Float[np.ndarray, "P 3"], str]:
    """The capture's normals at the pixels of the masks, in the frame of the poses, NaN where
    unknown; and their source: ground-truth maps, or else the measured ones."""
    maps, source = capture.ground_truth_normals, "ground_truth_normals"
    if maps is None:
        maps, source = capture.normals, "input"
    world = np.einsum("pij,pj->pi", c2w[rays.view, :3, :3], maps[masks].astype(float))
    return _nan_if_unknown(world), source


def _nan_if_unknown(normals: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "P 3"]:
    """The normals, NaN where the map has none (it is zero there)."""
    return np.where(np.linalg.norm(normals, axis=1, keepdims=True) > 0.5, normals, np.nan)


def normal_angles(hits: Hits, normals: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, " P"]:
    """Angle of each ray between the surface's normal and the given one; NaN without a hit."""
    angles = np.full(len(hits.mask), np.nan)
    angles[hits.mask] = angle_deg(hits.normals, normals[hits.mask])
    return angles


def error_map(
    angles: Float[np.ndarray, " P"], masks: Bool[np.ndarray, "V H W"]
) -> Float16[np.ndarray, "V H W"]:
    """The rays' angles as images, NaN outside the masks."""
    image = np.full(masks.shape, np.nan, np.float16)
    image[masks] = angles
    return image
