"""The tolerant visual hull of masks, as a signed distance function on a grid."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample

from pmni.sdf.grid import grid_nodes


@torch.no_grad()
def visual_hulls(
    distances: Float[Tensor, "V H W"],
    intrinsics: Float[Tensor, "V 3 3"],
    c2w: Float[Tensor, "V 4 4"],
    resolution: int,
    max_disagreeing: int,
    sizes: Int[Tensor, "V 2"] | None = None,
) -> Float[Tensor, "M n n n"]:
    """Approximate signed distances from hulls of the masks at grid nodes, normalised units.

    `distances` and `sizes` are those of `silhouettes.signed_distances`. In the k-th hull (k from 0
    to `max_disagreeing`) a point's value is the (k + 1)-th largest over views of its pixel's
    distance to the contour times depth over focal length: k views may disagree, as wrong poses
    make them.

    A view whose border cuts off the object says nothing of what is beyond. A point about which at
    most k views say something has the least of their values; one that none sees is outside.
    """
    device = distances.device
    nodes = grid_nodes(resolution, device).view(-1, 3)
    largest = torch.full((max_disagreeing + 1, len(nodes)), -torch.inf, device=device)
    size = torch.tensor([distances.shape[2] - 1, distances.shape[1] - 1], device=device)
    if sizes is None:
        sizes = torch.tensor(distances.shape[1:], device=device).expand(len(distances), 2)
    for image, K, pose, own in zip(distances, intrinsics, c2w, sizes, strict=True):
        local = (nodes - pose[:3, 3]) @ pose[:3, :3]
        homogeneous = local @ K.T
        pixel = homogeneous[:, :2] / homogeneous[:, 2:]
        coordinates = (pixel / size * 2 - 1).view(1, 1, -1, 2)
        sampled = grid_sample(
            image[None, None], coordinates, padding_mode="border", align_corners=True
        )
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
    return largest.view(max_disagreeing + 1, resolution, resolution, resolution)


def cut_off(image: Float[Tensor, "h w"]) -> bool:
    """Whether the object, where the distances are negative, reaches the image's border."""
    return any(bool((side < 0).any()) for side in (image[0], image[-1], image[:, 0], image[:, -1]))
