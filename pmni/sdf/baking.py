"""Surfaces on a grid, where a look-up takes the place of a network."""

from math import ceil

import torch

from pmni.sdf.grid import GridSDF, grid_nodes
from pmni.sdf.narrow_band import NarrowBandSDF, evaluate_in_chunks, resample
from pmni.sdf.residual import ResidualSDF
from pmni.sdf.sdf import SDF

FEWEST_CELLS, MOST_CELLS = 256, 512
"""Along a side, where the surface has no grid of its own."""
STRIDE = 16
"""The number of cells is a multiple of this: those of the coarse grid are a quarter as many, and
both come in blocks of 4."""


@torch.no_grad()
def baked(surface: SDF, spacing: float, device: torch.device) -> NarrowBandSDF:
    """The surface's values at the nodes of its own grid; if it has none, at those of a grid whose
    cells are about as large as `spacing`."""
    if isinstance(surface, NarrowBandSDF):
        return surface
    if isinstance(surface, ResidualSDF):
        grid, base = surface.surface.grid, surface.surface.background.values
        coarse = grid_nodes(len(base), device).view(-1, 3)
        return NarrowBandSDF(
            grid,
            surface.surface.values + grid.sampled(surface.correction),
            GridSDF(base + evaluate_in_chunks(surface.correction, coarse).view_as(base)),
            surface.surface.observed,
        )
    cells = STRIDE * ceil(2 / spacing / STRIDE)
    return resample(surface, min(max(cells, FEWEST_CELLS), MOST_CELLS), device, sweeps=0)
