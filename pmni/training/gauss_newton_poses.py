"""Gauss-Newton steps of the poses between the steps of the network."""

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.refinement import RefineSettings
from pmni.refinement.observations import Observations
from pmni.refinement.pose_step import pose_step
from pmni.refinement.solver import finest_cells
from pmni.sdf.narrow_band import resample
from pmni.sdf.sdf import SDF


class GaussNewtonPoses:
    """Refinement's pose step on the trained surface, resampled on a grid.

    Args:
        cells: cells along a side of that grid; None takes as many as `refine` would.
        redistancing_sweeps: sweeps of reinitialisation after the resampling.
    """

    def __init__(
        self, observations: Observations, cells: int | None, redistancing_sweeps: int
    ) -> None:
        self.observations, self.cells = observations, cells
        self.redistancing_sweeps = redistancing_sweeps

    @torch.no_grad()
    def step(self, sdf: SDF, c2w: Float[Tensor, "V 4 4"], seed: int) -> Float[Tensor, "V 4 4"]:
        """The poses after a step from `c2w`; the drawn pixels depend on the seed alone."""
        cells = self.cells or finest_cells(self.observations, c2w, RefineSettings().cell_pixels)
        surface = resample(sdf, cells, self.observations.device, self.redistancing_sweeps)
        moved = pose_step(self.observations, surface, c2w.double(), RefineSettings(seed=seed))
        return moved.to(c2w)
