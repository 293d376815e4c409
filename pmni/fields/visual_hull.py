"""The tolerant visual hull of masks, as a signed distance function on a grid."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import grid_sample

from pmni.fields.grid import grid_nodes


def mask_distances(masks: Bool[np.ndarray, "V H W"]) -> Float[np.ndarray, "V H W"]:
    """Signed distance to the contour in pixels, positive outside; the contour lies halfway."""
    result = np.empty(masks.shape, np.float32)
    for distance, mask in zip(result, masks, strict=True):
        outside, inside = distance_transform_edt(~mask), distance_transform_edt(mask)
        distance[...] = np.where(mask, 0.5 - inside, outside - 0.5)
    return result


@torch.no_grad()
def visual_hulls(
    distances: Float[Tensor, "V H W"],
    intrinsics: Float[Tensor, "V 3 3"],
    c2w: Float[Tensor, "V 4 4"],
    resolution: int,
    most: int,
) -> Float[Tensor, "M n n n"]:
    """Approximate signed distances from hulls of the masks at grid nodes, normalised units.

    `distances` are those of `mask_distances`. In the k-th hull (from 0 to `most`) a point's value
    is the (k + 1)-th largest over views of its pixel's distance to the contour times depth over
    focal length: k views may disagree, as wrong poses make them.
    """
    device = distances.device
    height, width = distances.shape[1:]
    nodes = grid_nodes(resolution, device).view(-1, 3)
    largest = torch.full((most + 1, len(nodes)), -torch.inf, device=device)
    size = torch.tensor([width - 1, height - 1], device=device)
    for image, K, pose in zip(distances, intrinsics, c2w, strict=True):
        local = (nodes - pose[:3, 3]) @ pose[:3, :3]
        homogeneous = local @ K.T
        pixel = homogeneous[:, :2] / homogeneous[:, 2:]
        where = (pixel / size * 2 - 1).view(1, 1, -1, 2)
        sampled = grid_sample(image[None, None], where, padding_mode="border", align_corners=True)
        value = sampled[0, 0, 0] * local[:, 2] / K[0, 0]
        largest = torch.cat([largest, value[None]]).topk(most + 1, dim=0).values
    return largest.view(most + 1, resolution, resolution, resolution)
