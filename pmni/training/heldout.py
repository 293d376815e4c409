"""Errors of a surface's normals at held-out pixels, which no stage has fitted."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import binary_erosion
from torch import Tensor
from torch.nn.functional import normalize

from pmni.data.heldout import BLOCK
from pmni.data.views import Views
from pmni.sdf.sdf import SDF
from pmni.sdf.sphere_tracing import box_interval, trace
from pmni.training.selection import BlockErrors
from pmni.volume_rendering.gradients import central_differences

CHUNK = 1 << 16
"""Rays traced at a time."""


@dataclass(frozen=True)
class HeldoutPixels:
    """The held-out pixels of all views in one list."""

    view: Int[Tensor, " N"]
    direction: Float[Tensor, "N 3"]
    """Camera frame, unit."""
    normal: Float[Tensor, "N 3"]
    """Camera frame, unit."""
    footprint: Float[Tensor, " N"]
    """A pixel's width at unit distance."""
    block: Int[Tensor, " N"]
    """Index of each pixel's block, among the blocks of all views that have pixels in the list."""


def heldout_pixels(views: Views, eroded_pixels: int) -> HeldoutPixels:
    """The held-out pixels inside the masks, without a border of `eroded_pixels`."""
    masks = views.masks.cpu().numpy()
    inner = np.stack([binary_erosion(mask, iterations=eroded_pixels) for mask in masks])
    view, row, column = torch.nonzero(
        torch.as_tensor(inner, device=views.device) & views.excluded_pixels, as_tuple=True
    )
    pixel = torch.stack([column, row, torch.ones_like(row)], dim=-1).to(views.normals.dtype)
    block = (view * len(masks[0]) + row // BLOCK) * len(masks[0, 0]) + column // BLOCK
    K = views.intrinsics.float()
    inverse = torch.linalg.inv(K.cpu()).to(K)
    m = (inverse[view] @ pixel[..., None])[..., 0]
    return HeldoutPixels(
        view=view,
        direction=normalize(m, dim=-1),
        normal=normalize(views.normals[view, row, column], dim=-1),
        footprint=1 / K[view, 0, 0],
        block=block.unique(return_inverse=True)[1],
    )


@torch.no_grad()
def heldout_angles(
    sdf: SDF, pixels: HeldoutPixels, c2w: Float[Tensor, "V 4 4"]
) -> Float[Tensor, " N"]:
    """Angles between the surface's normals and the measured ones, degrees.

    The surface's normals are central differences over a pixel's footprint, which is what a pixel
    shows however rough f is below that. A ray that misses the surface counts as 90 degrees.
    """
    angles = []
    for part in torch.arange(len(pixels.view), device=c2w.device).split(CHUNK):
        pose = c2w[pixels.view[part]]
        direction = (pose[:, :3, :3] @ pixels.direction[part][..., None])[..., 0]
        origin = pose[:, :3, 3]
        hits = trace(sdf, origin, direction, *box_interval(origin, direction))
        distance = torch.where(hits.mask, hits.distance, 0.0)
        half = 0.5 * float((pixels.footprint[part] * distance)[hits.mask].median())
        x = origin + distance[:, None] * direction
        normal = normalize(central_differences(sdf, x, half), dim=-1)
        measured = (pose[:, :3, :3] @ pixels.normal[part][..., None])[..., 0]
        # Unlike the arc cosine this is exact for small angles.
        angle = 2 * torch.asin(
            (0.5 * torch.linalg.vector_norm(normal - measured, dim=-1)).clamp(max=1)
        )
        angles.append(torch.where(hits.mask, torch.rad2deg(angle), 90.0))
    return torch.cat(angles)


def heldout_errors(sdf: SDF, pixels: HeldoutPixels, c2w: Float[Tensor, "V 4 4"]) -> BlockErrors:
    """The angular errors of `heldout_angles`, summed over each block."""
    angles = heldout_angles(sdf, pixels, c2w).double().cpu().numpy()
    block = pixels.block.cpu().numpy()
    return BlockErrors(np.bincount(block, angles), np.bincount(block))
