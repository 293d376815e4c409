"""Surfaces on a grid, at the nodes of that grid."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pmni.meshing.node_tiles import POINTS, Evaluate
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.residual import ResidualSDF
from pmni.sdf.sdf import SDF


def grid_of(surface: SDF) -> NarrowBandSDF | None:
    """The grid that a surface lies on, if it does."""
    below = surface.surface if isinstance(surface, ResidualSDF) else surface
    return below if isinstance(below, NarrowBandSDF) else None


def at_nodes(surface: SDF) -> Evaluate:
    """`surface` for points that are nodes of its grid: looked up there, not interpolated.

    A surface without a grid is returned as it is.
    """
    band = grid_of(surface)
    if band is None:
        return surface

    def evaluate(x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        rows = band.grid.node_indices(((x + 1) / band.grid.spacing).round().long())
        values = band.values.index_select(0, rows.clamp(min=0))
        off = torch.nonzero(rows < 0)[:, 0]
        if len(off):
            values[off] = band.background(x.index_select(0, off))
        return values + surface.correction(x) if isinstance(surface, ResidualSDF) else values

    return evaluate


def is_observed(band: NarrowBandSDF, points: Float[Tensor, "N 3"]) -> Bool[Tensor, " N"]:
    """Whether cameras have seen the surface there."""
    parts = points.split(POINTS[points.device.type])
    return torch.cat([band.is_observed(part) for part in parts])
