"""Gauss-Newton steps of the poses between the steps of the network."""

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.refinement import RefineSettings
from pmni.refinement.measurements import Measurements
from pmni.refinement.poses_only import pose_step
from pmni.refinement.refine import finest_cells
from pmni.sdf.band import on_grid
from pmni.sdf.sdf import SDF

SWEEPS = 4
"""Of redistancing, after the surface is sampled on a grid."""


class PoseSteps:
    """Steps on a surface sampled on a grid, of `cells` along a side or as `refine` would take."""

    def __init__(self, measurements: Measurements, cells: int | None) -> None:
        self.measurements, self.cells = measurements, cells

    @torch.no_grad()
    def step(self, sdf: SDF, c2w: Float[Tensor, "V 4 4"], seed: int) -> Float[Tensor, "V 4 4"]:
        """The poses after a step from `c2w`; the draw of pixels depends on the seed only."""
        cells = self.cells or finest_cells(self.measurements, c2w)
        surface = on_grid(sdf, cells, self.measurements.device, SWEEPS)
        moved = pose_step(self.measurements, surface, c2w.double(), RefineSettings(seed=seed))
        return moved.to(c2w)
