"""A shaded image of a mesh, seen by a pinhole camera."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pmni.geometry.cameras import invert_rigid, pixel_grid, project, ray_directions
from pmni.synthetic.mesh_surface import MeshSurface

CLAY = np.array([0.85, 0.82, 0.775])
"""Colour of the surface in full light: red, green, blue in [0, 1]."""

LIGHTS = ((-0.55, -0.75, -0.75, 0.62), (0.9, -0.1, -0.55, 0.20), (0.0, 0.35, -1.0, 0.16))
"""Lights from the upper left, the right and the front: x, y, z of the direction towards them in the
camera frame, and strength."""

AMBIENT = 0.32
"""Strength of the light from all sides."""

SAMPLES = 2
"""Number of rays along each side of a pixel."""


@dataclass(frozen=True)
class Viewpoint:
    """A pinhole camera with a square image."""

    c2w: Float[np.ndarray, "4 4"]
    K: Float[np.ndarray, "3 3"]
    side: int
    """Width and height of the image, pixels."""

    def project(
        self, points: Float[np.ndarray, "*n 3"]
    ) -> tuple[Float[np.ndarray, "*n 2"], Float[np.ndarray, "*n"]]:
        """Pixels (u, v) and z-depths of world points."""
        w2c = invert_rigid(self.c2w)
        return project(points @ w2c[:3, :3].T + w2c[:3, 3], self.K)


def shade(surface: MeshSurface, viewpoint: Viewpoint) -> Float[np.ndarray, "S S 4"]:
    """Red, green, blue and opacity in [0, 1]; colours are means over a pixel's covered part."""
    pixels, _ = viewpoint.project(surface.mesh.vertices)
    left, top = np.clip(np.floor(pixels.min(0)).astype(int) - 1, 0, viewpoint.side).tolist()
    right, bottom = np.clip(np.ceil(pixels.max(0)).astype(int) + 2, 0, viewpoint.side).tolist()
    height, width = bottom - top, right - left
    # pixels of the box around the object, each cut into SAMPLES^2
    samples = pixel_grid(height * SAMPLES, width * SAMPLES).reshape(-1, 3)
    samples[:, :2] = (samples[:, :2] + 0.5) / SAMPLES - 0.5 + [left, top]
    rays = ray_directions(samples, np.linalg.inv(viewpoint.K)) @ viewpoint.c2w[:3, :3].T
    origins = np.broadcast_to(viewpoint.c2w[:3, 3], rays.shape).copy()
    distance, normals = surface.trace(origins, rays)
    light = np.full(len(rays), AMBIENT)
    for *direction, strength in LIGHTS:
        unit = viewpoint.c2w[:3, :3] @ (np.array(direction) / np.linalg.norm(direction))
        light += strength * np.maximum(normals @ unit, 0)
    rgba = np.column_stack([np.outer(light, CLAY), np.ones(len(rays))])
    rgba *= np.isfinite(distance)[:, None]
    box = rgba.reshape(height, SAMPLES, width, SAMPLES, 4).mean((1, 3))
    box[..., :3] /= np.maximum(box[..., 3:], 1e-9)
    image = np.zeros((viewpoint.side, viewpoint.side, 4))
    image[top:bottom, left:right] = np.clip(box, 0, 1)
    return image
