"""What a camera sees of a surface: normals and ray distances of all its pixels."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from pmni.cameras import pixel_grid, ray_directions
from pmni.fields.sdf import SDF
from pmni.rendering.sphere_tracing import box_interval, trace


@dataclass(frozen=True)
class View:
    """An image of the surface."""

    normals: Float[np.ndarray, "H W 3"]
    """Unit vectors in the camera frame (OpenCV axes); zero where there is no surface."""
    distance: Float[np.ndarray, "H W"]
    """Along the ray, normalised units; NaN where there is no surface."""


def render_view(
    sdf: SDF,
    K: Float[np.ndarray, "3 3"],
    c2w: Float[np.ndarray, "4 4"],
    shape: tuple[int, int],
    chunk: int,
    device: torch.device,
) -> View:
    """Trace the rays of all pixels of an image of `shape` (height, width), `chunk` at a time."""
    pixels = pixel_grid(*shape).reshape(-1, 3)
    directions = ray_directions(pixels, np.linalg.inv(K)) @ c2w[:3, :3].T
    normals = np.zeros((len(pixels), 3), np.float32)
    distance = np.full(len(pixels), np.nan, np.float32)
    centre = torch.from_numpy(c2w[:3, 3]).float().to(device)
    for start in range(0, len(pixels), chunk):
        part = slice(start, start + chunk)
        ray = torch.from_numpy(directions[part]).float().to(device)
        origin = centre.expand_as(ray)
        hits = trace(sdf, origin, ray, *box_interval(origin, ray))
        distance[part] = hits.distance.cpu().numpy()
        points = (origin + hits.distance[:, None] * ray)[hits.mask]
        _, gradient = sdf.value_and_gradient(points)
        normal = torch.nn.functional.normalize(gradient.detach(), dim=-1).cpu().numpy()
        normals[part][hits.mask.cpu().numpy()] = normal @ c2w[:3, :3]
    return View(normals.reshape(*shape, 3), distance.reshape(shape))
