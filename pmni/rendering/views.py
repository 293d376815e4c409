"""What cameras see of a surface: normals and ray distances of all their pixels."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from pmni.cameras import pixel_grid, ray_directions
from pmni.fields.sdf import SDF
from pmni.rendering.sphere_tracing import box_interval, trace


@dataclass(frozen=True)
class Images:
    """Images of the surface."""

    normals: Float[np.ndarray, "V H W 3"]
    """Unit vectors in the camera frame (OpenCV axes); zero where there is no surface."""
    distance: Float[np.ndarray, "V H W"]
    """Along the ray, normalised units; NaN where there is no surface."""


def render_views(
    sdf: SDF,
    intrinsics: Float[np.ndarray, "V 3 3"],
    c2w: Float[np.ndarray, "V 4 4"],
    shape: tuple[int, int],
    chunk: int,
    device: torch.device,
) -> Images:
    """Trace the rays of all pixels of images of `shape` (height, width), `chunk` at a time."""
    pixels = pixel_grid(*shape).reshape(-1, 3)
    count = len(c2w) * len(pixels)
    inverse = np.linalg.inv(intrinsics)
    normals = np.zeros((count, 3), np.float32)
    distance = np.full(count, np.nan, np.float32)
    for start in range(0, count, chunk):
        part = np.arange(start, min(start + chunk, count))
        view, pixel = part // len(pixels), part % len(pixels)
        local = ray_directions(pixels[pixel], inverse[view])
        world = np.einsum("nij,nj->ni", c2w[view, :3, :3], local)
        ray = torch.from_numpy(world).float().to(device)
        origin = torch.from_numpy(c2w[view, :3, 3]).float().to(device)
        hits = trace(sdf, origin, ray, *box_interval(origin, ray))
        distance[part] = hits.distance.cpu().numpy()
        points = (origin + hits.distance[:, None] * ray)[hits.mask]
        _, gradient = sdf.value_and_gradient(points)
        normal = torch.nn.functional.normalize(gradient.detach(), dim=-1).cpu().numpy()
        hit = hits.mask.cpu().numpy()
        normals[part[hit]] = np.einsum("nij,ni->nj", c2w[view[hit], :3, :3], normal)
    return Images(normals.reshape(-1, *shape, 3), distance.reshape(-1, *shape))
