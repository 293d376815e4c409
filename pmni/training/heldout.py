"""How well a surface shows what no stage has fitted: the normals of held-out pixels."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import binary_erosion
from torch import Tensor
from torch.nn.functional import normalize

from pmni.data.heldout import BLOCK
from pmni.sdf.sdf import SDF
from pmni.sdf.sphere_tracing import box_interval, trace
from pmni.training.data import Views
from pmni.training.selection import BlockErrors
from pmni.volume_rendering.gradients import central_differences

RIM = 2
"""Pixels along the contours that do not count: whether their rays hit says more about masks."""
CHUNK = 1 << 16
"""Rays at a time."""


@dataclass(frozen=True)
class HeldoutPixels:
    """The held-out pixels of all views in one list."""

    view: Int[Tensor, "N"]
    direction: Float[Tensor, "N 3"]
    """Camera frame, unit."""
    normal: Float[Tensor, "N 3"]
    """Camera frame, unit."""
    size: Float[Tensor, "N"]
    """A pixel's width at unit distance."""
    block: Int[Tensor, "N"]
    """The number of each pixel's block, among those of all views that have pixels here."""


def heldout_pixels(views: Views) -> HeldoutPixels:
    """The held-out pixels inside the masks."""
    masks = views.masks.cpu().numpy() > 0
    inner = np.stack([binary_erosion(mask, iterations=RIM) for mask in masks])
    view, row, column = torch.nonzero(
        torch.as_tensor(inner, device=views.device) & views.heldout, as_tuple=True
    )
    pixel = torch.stack([column, row, torch.ones_like(row)], dim=-1).to(views.normals.dtype)
    block = (view * len(masks[0]) + row // BLOCK) * len(masks[0, 0]) + column // BLOCK
    inverse = torch.linalg.inv(views.intrinsics.cpu()).to(views.intrinsics)
    m = (inverse[view] @ pixel[..., None])[..., 0]
    return HeldoutPixels(
        view=view,
        direction=normalize(m, dim=-1),
        normal=normalize(views.normals[view, row, column], dim=-1),
        size=1 / views.intrinsics[view, 0, 0],
        block=block.unique(return_inverse=True)[1],
    )


@torch.no_grad()
def heldout_angles(
    sdf: SDF, pixels: HeldoutPixels, c2w: Float[Tensor, "V 4 4"]
) -> Float[Tensor, "N"]:
    """Angles in degrees between the surface's normals and those of the pixels.

    The surface's are differences over a pixel's width, which is what a pixel shows, however rough
    f is below that. A ray that misses counts as 90 degrees.
    """
    angles = []
    for part in torch.arange(len(pixels.view), device=c2w.device).split(CHUNK):
        pose = c2w[pixels.view[part]]
        direction = (pose[:, :3, :3] @ pixels.direction[part][..., None])[..., 0]
        origin = pose[:, :3, 3]
        hits = trace(sdf, origin, direction, *box_interval(origin, direction))
        distance = torch.where(hits.mask, hits.distance, 0.0)
        half = 0.5 * float((pixels.size[part] * distance)[hits.mask].median())
        x = origin + distance[:, None] * direction
        normal = normalize(central_differences(sdf, x, half), dim=-1)
        wanted = (pose[:, :3, :3] @ pixels.normal[part][..., None])[..., 0]
        # Unlike the arc cosine this is exact for small angles.
        angle = 2 * torch.asin(
            (0.5 * torch.linalg.vector_norm(normal - wanted, dim=-1)).clamp(max=1)
        )
        angles.append(torch.where(hits.mask, torch.rad2deg(angle), 90.0))
    return torch.cat(angles)


def heldout_errors(sdf: SDF, pixels: HeldoutPixels, c2w: Float[Tensor, "V 4 4"]) -> BlockErrors:
    """The angles of `heldout_angles`, summed over each block."""
    angles = heldout_angles(sdf, pixels, c2w).double().cpu().numpy()
    block = pixels.block.cpu().numpy()
    return BlockErrors(np.bincount(block, angles), np.bincount(block))
