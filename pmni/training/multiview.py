"""Terms of the loss that tie views to one another and to the integrated distances."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample

from pmni.sdf.sdf import SDF
from pmni.training.losses import masked_mean


def back_project(
    m: Float[Tensor, "N 3"],
    distance: Float[Tensor, "N"],
    c2w: Float[Tensor, "N 4 4"],
) -> Float[Tensor, "N 3"]:
    """World points at ray distances along the rays m (camera frame, any length)."""
    direction = m / torch.linalg.vector_norm(m, dim=-1, keepdim=True)
    local = distance[:, None] * direction
    return (c2w[:, :3, :3] * local[:, None, :]).sum(-1) + c2w[:, :3, 3]


def consistency_loss(
    x: Float[Tensor, "N 3"],
    normal: Float[Tensor, "N 3"],
    other: Int[Tensor, "N"],
    visible: Bool[Tensor, "N"],
    c2w: Float[Tensor, "V 4 4"],
    intrinsics: Float[Tensor, "V 3 3"],
    normals: Float[Tensor, "V H W 3"],
    masks: Float[Tensor, "V H W"],
) -> Float[Tensor, ""]:
    """Mean |n - R_j n_j(pi_j(x))|^2 over the points that view j = `other` sees.

    x: surface points; normal: their unit world normals; visible: whether the view's ray reaches
    them (traced by the caller). Points that fall outside the other mask count for nothing.
    """
    rotation, centre = c2w[other, :3, :3], c2w[other, :3, 3]
    local = ((x - centre)[:, None, :] @ rotation)[:, 0]
    homogeneous = (intrinsics[other] * local[:, None, :]).sum(-1)
    pixel = homogeneous[:, :2] / homogeneous[:, 2:]
    seen, inside = sample_views(pixel, other, normals, masks)
    world = (rotation * seen[:, None, :]).sum(-1)
    return masked_mean(((normal - world) ** 2).sum(-1), (visible & inside).to(x.dtype))


def sample_views(
    pixel: Float[Tensor, "N 2"],
    view: Int[Tensor, "N"],
    normals: Float[Tensor, "V H W 3"],
    masks: Float[Tensor, "V H W"],
) -> tuple[Float[Tensor, "N 3"], Bool[Tensor, "N"]]:
    """Unit normals at pixels (column, row) of views, bilinear; and whether all four are inside."""
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


def surface_loss(
    sdf: SDF, points: Float[Tensor, "N 3"], mask: Float[Tensor, "N"]
) -> Float[Tensor, ""]:
    """Mean |f| at the back-projected integrated distances."""
    return masked_mean(sdf(points).abs(), mask)


def chamfer_loss(
    points: Float[Tensor, "N 3"],
    view: Int[Tensor, "N"],
    views: int,
    mask: Float[Tensor, "N"],
) -> Float[Tensor, ""]:
    """Mean distance of each point to the nearest point of the next view (cyclic), and back.

    Points of views without a partner in the batch count for nothing.
    """
    distance = torch.cdist(points, points)
    on = mask > 0
    total, count = points.new_zeros(()), points.new_zeros(())
    for shift in (1, -1):
        partner = (view[:, None] + shift) % views == view[None, :]
        allowed = partner & on[None, :] & on[:, None]
        nearest = distance.masked_fill(~allowed, torch.inf).min(dim=1).values
        found = allowed.any(dim=1)
        total = total + torch.where(found, nearest, 0.0).sum()
        count = count + found.sum()
    return total / count.clamp(min=1)
