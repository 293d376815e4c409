"""The part of the surface that no camera sees: found, smoothed, and marked."""

import torch
from jaxtyping import Bool
from torch import Tensor

from pmni.refinement.solver import GaussNewtonSolver
from pmni.sdf.block_grid import BlockGrid
from pmni.sdf.narrow_band import NarrowBandSDF, reinitialize

DRAWS = 3
"""Draws of pixels that are to meet every cell of the surface that is seen."""
AROUND = 2
"""Cells around what a pixel meets that count as seen."""
SMOOTHINGS = 60
"""Steps of diffusion: the visual hull's edges give way to a smooth closure."""
SWEEPS = 12


@torch.no_grad()
def complete_surface(solver: GaussNewtonSolver) -> NarrowBandSDF:
    """The refined surface, smoothed where nothing was measured and with its nodes marked `seen`.

    What is seen does not move: the rest is the smooth continuation that diffusion of f finds
    between it and the visual hull.
    """
    sdf = solver.state.surface
    seen = observed_nodes(solver)
    values = sdf.values
    for _ in range(SMOOTHINGS):
        values = torch.where(seen, values, values - sdf.grid.laplacian(values) / 12)
    smooth = reinitialize(NarrowBandSDF(sdf.grid, values, sdf.background), SWEEPS)
    return NarrowBandSDF(smooth.grid, smooth.values, smooth.background, seen)


def observed_nodes(solver: GaussNewtonSolver) -> Bool[Tensor, " N"]:
    """The nodes around the points where pixels' rays meet the surface and their normals count."""
    grid = solver.state.surface.grid
    seen = torch.zeros(len(grid), dtype=torch.bool, device=grid.device)
    for _ in range(DRAWS):
        normals = solver.linearize().normals
        seen[normals.residuals.rows[normals.root_weight > 0].reshape(-1)] = True
    for _ in range(AROUND):
        seen = dilated(grid, seen)
    return seen


def dilated(grid: BlockGrid, chosen: Bool[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """The chosen nodes and all their 26 neighbours."""
    around = grid.with_halo(chosen.float())[:, None]
    return torch.nn.functional.max_pool3d(around, 3, stride=1).view(-1) > 0
