"""The convergence test: how far the surface has moved since the last test."""

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.training import ConvergenceSettings
from pmni.sdf.sdf import SDF
from pmni.volume_rendering.occupancy import OccupancyGrid, cell_centres


class ConvergenceTest:
    """Measures the surface's motion by points that lay on it at the last test."""

    def __init__(
        self, settings: ConvergenceSettings, points: Float[Tensor, "N 3"] | None = None
    ) -> None:
        self.settings, self.points = settings, points

    def surface_motion(self, surface: SDF, occupancy: OccupancyGrid) -> float:
        """Mean distance of the last test's points from the surface, normalised units.

        Infinite at the first test. Takes new points for the next one.
        """
        motion = torch.inf
        if self.points is not None and len(self.points):
            steps = _newton_step(surface, self.points)
            motion = float(torch.linalg.vector_norm(steps, dim=-1).mean())
        n = occupancy.resolution
        near = occupancy.values.abs() < 1 / n
        points = cell_centres(n, near.device)[near]
        points = points[:: max(1, len(points) // self.settings.points)]
        for _ in range(self.settings.newton_steps):
            points = points + _newton_step(surface, points)
        self.points = points
        return motion


def _newton_step(surface: SDF, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """The step along the gradient to f = 0: -f grad f / |grad f|^2."""
    with torch.no_grad():
        f, gradient = surface.value_and_gradient(points)
    return -(f / (gradient**2).sum(-1).clamp(min=1e-6))[:, None] * gradient
