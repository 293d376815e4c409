"""The tolerant visual hull of masks, as a signed distance function on a grid."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import grid_sample

from pmni.sdf.grid import grid_nodes


def mask_distances(
    masks: Bool[np.ndarray, "V H W"], sizes: Int[np.ndarray, "V 2"] | None = None
) -> Float[np.ndarray, "V H W"]:
    """Signed distance to the contour in pixels, positive outside; the contour lies halfway.

    The border of an image is no contour. `sizes` are the images' own heights and widths, where they
    are padded; beyond them the distances go on as at the border.
    """
    shown = np.broadcast_to(masks.shape[1:] if sizes is None else sizes, (len(masks), 2))
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(_mask_distance, masks, shown)))


def _mask_distance(mask: Bool[np.ndarray, "H W"], size: Int[np.ndarray, "2"]) -> np.ndarray:
    height, width = size
    shown = mask[:height, :width]
    if shown.all():
        distance = np.full(shown.shape, -np.hypot(height, width), np.float32)
    else:
        outside, inside = distance_transform_edt(~shown), distance_transform_edt(shown)
        distance = np.where(shown, 0.5 - inside, outside - 0.5).astype(np.float32)
    beyond = (mask.shape[0] - height, mask.shape[1] - width)
    return np.pad(distance, ((0, beyond[0]), (0, beyond[1])), "edge")


@torch.no_grad()
def visual_hulls(
    distances: Float[Tensor, "V H W"],
    intrinsics: Float[Tensor, "V 3 3"],
    c2w: Float[Tensor, "V 4 4"],
    resolution: int,
    most: int,
    sizes: Int[Tensor, "V 2"] | None = None,
) -> Float[Tensor, "M n n n"]:
    """Approximate signed distances from hulls of the masks at grid nodes, normalised units.

    `distances` and `sizes` are those of `mask_distances`. In the k-th hull (from 0 to `most`) a
    point's value is the (k + 1)-th largest over views of its pixel's distance to the contour times
    depth over focal length: k views may disagree, as wrong poses make them.

    A view whose border cuts off the object says nothing of what is beyond. A point of which no
    more than k views say anything has the least of their values; one that none sees is outside.
    """
    device = distances.device
    nodes = grid_nodes(resolution, device).view(-1, 3)
    largest = torch.full((most + 1, len(nodes)), -torch.inf, device=device)
    size = torch.tensor([distances.shape[2] - 1, distances.shape[1] - 1], device=device)
    if sizes is None:
        sizes = torch.tensor(distances.shape[1:], device=device).expand(len(distances), 2)
    for image, K, pose, own in zip(distances, intrinsics, c2w, sizes, strict=True):
        local = (nodes - pose[:3, 3]) @ pose[:3, :3]
        homogeneous = local @ K.T
        pixel = homogeneous[:, :2] / homogeneous[:, 2:]
        where = (pixel / size * 2 - 1).view(1, 1, -1, 2)
        sampled = grid_sample(image[None, None], where, padding_mode="border", align_corners=True)
        value = sampled[0, 0, 0] * local[:, 2] / K[0, 0]
        if cut_off(image[: own[0], : own[1]]):
            beyond = (pixel < -0.5) | (pixel > own.flip(0) - 0.5)
            value = torch.where(beyond.any(-1), -torch.inf, value)
        for kept in largest:  # in order: each passes the smaller one on
            smaller = torch.minimum(kept, value)
            torch.maximum(kept, value, out=kept)
            value = smaller
    largest[0] = torch.where(largest[0].isinf(), 2 / (resolution - 1), largest[0])
    for more, fewer in zip(largest[1:], largest, strict=False):
        more.copy_(torch.where(more.isinf(), fewer, more))
    return largest.view(most + 1, resolution, resolution, resolution)


def cut_off(image: Float[Tensor, "h w"]) -> bool:
    """Whether the object, where the distances are negative, reaches the image's border."""
    return any(bool((side < 0).any()) for side in (image[0], image[-1], image[:, 0], image[:, -1]))
