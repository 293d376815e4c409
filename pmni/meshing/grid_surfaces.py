"""Signed distance functions on a grid, evaluated at the nodes of that grid."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pmni.meshing.node_cache import POINTS, Evaluate
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.residual import ResidualSDF
from pmni.sdf.sdf import SDF


def narrow_band(surface: SDF) -> NarrowBandSDF | None:
    """The narrow band that a surface is, or that a network corrects; None for others."""
    base = surface.surface if isinstance(surface, ResidualSDF) else surface
    return base if isinstance(base, NarrowBandSDF) else None


def evaluate_at_nodes(surface: SDF) -> Evaluate:
    """A function that looks values up at the nodes of the surface's grid, without interpolation.

    For a surface without a grid, the surface itself.
    """
    band = narrow_band(surface)
    if band is None:
        return surface

    def evaluate(x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        nodes = band.grid.node_indices(((x + 1) / band.grid.spacing).round().long())
        values = band.values.index_select(0, nodes.clamp(min=0))
        inactive = torch.nonzero(nodes < 0)[:, 0]
        if len(inactive):
            values[inactive] = band.background(x.index_select(0, inactive))
        return values + surface.correction(x) if isinstance(surface, ResidualSDF) else values

    return evaluate


def is_observed(band: NarrowBandSDF, points: Float[Tensor, "N 3"]) -> Bool[Tensor, " N"]:
    """Whether cameras have observed the surface at points."""
    parts = points.split(POINTS[points.device.type])
    return torch.cat([band.is_observed(part) for part in parts])
