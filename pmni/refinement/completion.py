"""The part of the surface that no camera observes: found, smoothed, and marked."""

import torch
from jaxtyping import Bool
from torch import Tensor

from pmni.refinement.solver import GaussNewtonSolver
from pmni.sdf.block_grid import BlockGrid
from pmni.sdf.narrow_band import NarrowBandSDF, reinitialize

DIFFUSION_DIVISOR = 12
"""Divisor of the graph Laplacian in a step of diffusion: its largest eigenvalue."""


@torch.no_grad()
def complete_surface(solver: GaussNewtonSolver) -> NarrowBandSDF:
    """The refined surface, smoothed where it is unobserved, with its nodes marked `observed`.

    What is observed does not move: the rest is the smooth continuation that diffusion of f finds
    between it and the visual hull.
    """
    settings, band = solver.settings.completion, solver.settings.narrow_band
    sdf = solver.state.surface
    observed = observed_nodes(solver)
    values = sdf.values
    for _ in range(settings.diffusion_steps):
        smoothed = values - sdf.grid.laplacian(values) / DIFFUSION_DIVISOR
        values = torch.where(observed, values, smoothed)
    smooth = reinitialize(NarrowBandSDF(sdf.grid, values, sdf.background), settings.sweeps, band)
    return NarrowBandSDF(smooth.grid, smooth.values, smooth.background, observed)


def observed_nodes(solver: GaussNewtonSolver) -> Bool[Tensor, " N"]:
    """The nodes around the points where pixels' rays meet the surface and their normals count."""
    settings = solver.settings.completion
    grid = solver.state.surface.grid
    observed = torch.zeros(len(grid), dtype=torch.bool, device=grid.device)
    for _ in range(settings.draws):
        normals = solver.linearize().normals
        observed[normals.residuals.nodes[normals.root_weight > 0].reshape(-1)] = True
    for _ in range(settings.dilation_cells):
        observed = dilate(grid, observed)
    return observed


def dilate(grid: BlockGrid, chosen: Bool[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """The chosen nodes and all their 26 neighbours."""
    around = grid.with_halo(chosen.float())[:, None]
    return torch.nn.functional.max_pool3d(around, 3, stride=1).view(-1) > 0
