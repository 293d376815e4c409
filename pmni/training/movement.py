"""How far the surface moves, by which a training knows that it no longer changes anything."""

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.sdf.sdf import SDF
from pmni.volume_rendering.occupancy import OccupancyGrid, cell_centres

POINTS = 20_000
"""About so many, all over the surface."""
STEPS = 3
"""Newton steps by which points get onto the surface."""
EVERY = 50
"""Training steps between looks."""


class Movement:
    """Points that lay on the surface when it was last looked at."""

    def __init__(self, points: Float[Tensor, "N 3"] | None = None) -> None:
        self.points = points

    def since(self, surface: SDF, occupancy: OccupancyGrid) -> float:
        """The mean distance of the last look's points from the surface, normalised units; infinite
        at the first look. New points are taken for the next one."""
        moved = torch.inf
        if self.points is not None and len(self.points):
            moved = float(
                torch.linalg.vector_norm(_to_surface(surface, self.points), dim=-1).mean()
            )
        n = occupancy.resolution
        near = occupancy.values.abs() < 1 / n
        points = cell_centres(n, near.device)[near]
        points = points[:: max(1, len(points) // POINTS)]
        for _ in range(STEPS):
            points = points + _to_surface(surface, points)
        self.points = points
        return moved


def _to_surface(surface: SDF, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Newton's step along the gradient, -f grad f / |grad f|^2."""
    with torch.no_grad():
        f, gradient = surface.value_and_gradient(points)
    return -(f / (gradient**2).sum(-1).clamp(min=1e-6))[:, None] * gradient
