"""What other views show at points of the surface: projection into the views, and lookup there.

Points outside an image or behind a camera have pixels that mean nothing; callers mask them.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample


def project_into_views(
    x: Float[Tensor, "N 3"],
    view: Int[Tensor, " N"],
    c2w: Float[Tensor, "V 4 4"],
    intrinsics: Float[Tensor, "V 3 3"],
) -> Float[Tensor, "N 2"]:
    """Pixels (column, row) of world points, each in a view of its own."""
    rotation, centre = c2w[view, :3, :3], c2w[view, :3, 3]
    local = ((x - centre)[:, None, :] @ rotation)[:, 0]
    homogeneous = (intrinsics[view] * local[:, None, :]).sum(-1)
    return homogeneous[:, :2] / homogeneous[:, 2:]


def nearest_normals(
    pixel: Float[Tensor, "N 2"], view: Int[Tensor, " N"], normals: Float[Tensor, "V H W 3"]
) -> Float[Tensor, "N 3"]:
    """Normals at the nearest pixels of views; zero outside the images, as outside the masks."""
    height, width = normals.shape[1:3]
    u, v = pixel.round().long().unbind(-1)
    in_image = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    found = normals[view, v.clamp(0, height - 1), u.clamp(0, width - 1)]
    return found * in_image[:, None]


def bilinear_normals(
    pixel: Float[Tensor, "N 2"],
    view: Int[Tensor, " N"],
    normals: Float[Tensor, "V H W 3"],
    masks: Float[Tensor, "V H W"],
) -> tuple[Float[Tensor, "N 3"], Bool[Tensor, " N"]]:
    """Unit normals at pixels of views, bilinear; and whether all four pixels are in the mask."""
    count, height, width = masks.shape
    # The views are the slices of a volume, sampled exactly at a slice: no loop over views.
    volume = torch.cat([normals, masks[..., None]], dim=-1).permute(3, 0, 1, 2)[None]
    size = torch.tensor([width - 1, height - 1, max(1, count - 1)], device=pixel.device)
    coordinate = torch.cat([pixel, view[:, None].to(pixel.dtype)], dim=-1) / size * 2 - 1
    sampled = grid_sample(volume, coordinate.view(1, -1, 1, 1, 3), align_corners=True)
    values = sampled[0, :, :, 0, 0].T
    inside = values[:, 3] > 0.999
    length = torch.linalg.vector_norm(values[:, :3], dim=-1, keepdim=True).clamp(min=1e-6)
    return values[:, :3] / length, inside
