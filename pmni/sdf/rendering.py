"""Rendering of a surface by sphere tracing: normals and ray distances of all pixels."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.meshing import RenderSettings
from pmni.geometry.cameras import pixel_grid, ray_directions
from pmni.sdf.baking import bake
from pmni.sdf.sdf import SDF
from pmni.sdf.sphere_tracing import box_interval, clear_distance, trace

BLOCK = 8
"""Side of the blocks whose rays are followed together while nothing is near them, pixels."""


@dataclass(frozen=True)
class Images:
    """Rendered images of a surface."""

    normals: Float[np.ndarray, "V H W 3"]
    """Unit vectors in the camera frame (OpenCV axes); zero where there is no surface."""
    distance: Float[np.ndarray, "V H W"]
    """Distance along the ray, normalised units; NaN where there is no surface."""


def render_surface(
    surface: SDF,
    intrinsics: Float[np.ndarray, "V 3 3"],
    c2w: Float[np.ndarray, "V 4 4"],
    shape: tuple[int, int],
    settings: RenderSettings,
    device: torch.device,
) -> Images:
    """Normals and ray distances of any surface: a network is sampled on a grid first, whose cells
    are about as large as the pixels on the object."""
    pixel = float(np.median(np.linalg.norm(c2w[:, :3, 3], axis=1) / intrinsics[:, 0, 0]))
    grid = bake(surface, pixel, device, settings.min_cells, settings.max_cells)
    return render_views(grid, intrinsics, c2w, shape, settings.chunk, device)


@torch.no_grad()
def render_views(
    sdf: SDF,
    intrinsics: Float[np.ndarray, "V 3 3"],
    c2w: Float[np.ndarray, "V 4 4"],
    shape: tuple[int, int],
    chunk: int,
    device: torch.device,
) -> Images:
    """Trace the rays of all pixels of images of `shape` (height, width), `chunk` at a time."""
    pixels = torch.from_numpy(pixel_grid(*shape).reshape(-1, 3)).to(device)
    to_rays = torch.from_numpy(np.linalg.inv(intrinsics)).to(device)
    to_worlds = torch.from_numpy(c2w).to(device)
    clear = clear_distances(sdf, to_rays, to_worlds, shape)
    normals, distances = [], []
    for to_ray, to_world, free in zip(to_rays, to_worlds, clear.flatten(1), strict=True):
        for part, start in zip(pixels.split(chunk), free.split(chunk), strict=True):
            ray = (ray_directions(part, to_ray) @ to_world[:3, :3].T).float()
            origin = to_world[:3, 3].float().expand_as(ray)
            near, far = box_interval(origin, ray)
            hits = trace(sdf, origin, ray, torch.maximum(near, start), far)
            _, gradient = sdf.value_and_gradient((origin + hits.distance[:, None] * ray)[hits.mask])
            world = torch.zeros_like(ray)
            world[hits.mask] = torch.nn.functional.normalize(gradient, dim=-1)
            normals.append((world @ to_world[:3, :3].float()).cpu())
            distances.append(hits.distance.cpu())
    views = len(c2w)
    return Images(
        torch.cat(normals).view(views, *shape, 3).numpy(),
        torch.cat(distances).view(views, *shape).numpy(),
    )


def clear_distances(
    sdf: SDF,
    to_rays: Float[Tensor, "V 3 3"],
    c2w: Float[Tensor, "V 4 4"],
    shape: tuple[int, int],
) -> Float[Tensor, "V H W"]:
    """Distance that is free on the rays of all pixels, from cones around blocks of them."""
    edges = [np.arange(0, size, BLOCK) for size in shape]
    ends = [np.minimum(edge + BLOCK, size) - 1 for edge, size in zip(edges, shape, strict=True)]
    middles = [(edge + end) // 2 for edge, end in zip(edges, ends, strict=True)]
    probed = [middles, *itertools.product(*zip(edges, ends, strict=True))]  # and the corners
    grid = pixel_grid(*shape)
    probes = np.stack([grid[np.ix_(*indices)] for indices in probed])  # (5, h, w, 3)
    pixels = torch.from_numpy(probes).to(c2w.device)
    local = ray_directions(pixels, to_rays[:, None, None, None])  # (V, 5, h, w, 3)
    spread = torch.linalg.vector_norm(local[:, 1:] - local[:, :1], dim=-1).amax(1)
    axes = torch.einsum("vij,vhwj->vhwi", c2w[:, :3, :3], local[:, 0])
    origins = c2w[:, None, None, :3, 3].expand_as(axes)
    cones = origins.reshape(-1, 3), axes.reshape(-1, 3), spread.reshape(-1)
    clear = clear_distance(sdf, *(part.float() for part in cones)).view_as(spread)
    by_pixel = clear.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    return by_pixel[:, : shape[0], : shape[1]]
