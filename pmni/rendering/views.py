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
    normals, distances = [], []
    for K_inverse, pose in zip(np.linalg.inv(intrinsics), c2w, strict=True):
        to_ray, to_world = (torch.from_numpy(part).to(device) for part in (K_inverse, pose))
        for part in pixels.split(chunk):
            ray = (ray_directions(part, to_ray) @ to_world[:3, :3].T).float()
            origin = to_world[:3, 3].float().expand_as(ray)
            hits = trace(sdf, origin, ray, *box_interval(origin, ray))
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
