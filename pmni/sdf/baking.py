"""Baking: any surface sampled on a narrow-band grid, which is then looked up instead of it."""

from math import ceil

import torch

from pmni.sdf.grid import GridSDF, grid_nodes
from pmni.sdf.narrow_band import NarrowBandSDF, evaluate_in_chunks, resample
from pmni.sdf.residual import ResidualSDF
from pmni.sdf.sdf import SDF

CELL_MULTIPLE = 16
"""The number of cells is a multiple of this: the background grid has a quarter as many, and both
are stored in blocks of 4."""


@torch.no_grad()
def bake(
    surface: SDF, spacing: float, device: torch.device, min_cells: int, max_cells: int
) -> NarrowBandSDF:
    """The surface's values at the nodes of its own grid, if it has one.

    Else at those of a grid whose cells are about as large as `spacing`, normalised units, and from
    `min_cells` to `max_cells` along a side.
    """
    if isinstance(surface, NarrowBandSDF):
        return surface
    if isinstance(surface, ResidualSDF):
        return _bake_residual(surface, device)
    cells = CELL_MULTIPLE * ceil(2 / spacing / CELL_MULTIPLE)
    return resample(surface, min(max(cells, min_cells), max_cells), device, sweeps=0)


def _bake_residual(residual: ResidualSDF, device: torch.device) -> NarrowBandSDF:
    """The sum of the grid surface and its correction, on the same grid."""
    surface, correction = residual.surface, residual.correction
    coarse = surface.background.values
    nodes = grid_nodes(len(coarse), device).view(-1, 3)
    return NarrowBandSDF(
        surface.grid,
        surface.values + surface.grid.sample(correction),
        GridSDF(coarse + evaluate_in_chunks(correction, nodes).view_as(coarse)),
        surface.observed,
    )
