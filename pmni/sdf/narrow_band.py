"""A signed distance function on a fine sparse grid around its surface, and a coarse one beyond."""

from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool3d

from pmni import kernels
from pmni.config.refinement import NarrowBandSettings
from pmni.kernels.types import NarrowBandTensors
from pmni.sdf.block_grid import BLOCK, BlockGrid, trilinear
from pmni.sdf.grid import GridSDF, grid_nodes
from pmni.sdf.reinitialization import reinitialize_dense_values, reinitialize_values
from pmni.sdf.sdf import SDF

DENSE_CELLS = 64
"""Largest number of cells along a side of a grid that has all its nodes. The background grid has as
many, or a quarter of the fine grid's if that is more."""
CHUNK = 2**18
"""Points evaluated at a time where memory counts."""
DEFAULTS = NarrowBandSettings()
"""Width, truncation and fixed nodes of bands for which nothing else is said."""


class NarrowBandSDF:
    """A signed distance function: trilinear in the cells of a fine grid, else a background.

    Args:
        grid: the fine nodes; where it has all, `background` holds the same values.
        values: signed distances at its nodes, normalised units.
        background: a coarse dense grid.
        observed: whether cameras have observed the surface around each node; None if unknown.
    """

    def __init__(
        self,
        grid: BlockGrid,
        values: Float[Tensor, " N"],
        background: GridSDF,
        observed: Bool[Tensor, " N"] | None = None,
    ) -> None:
        self.grid, self.values, self.background, self.observed = grid, values, background, observed

    def is_observed(self, x: Float[Tensor, "N 3"]) -> Bool[Tensor, " N"]:
        """Whether all corners of the cells around points are observed; True if unknown."""
        if self.observed is None:
            return torch.ones(len(x), dtype=torch.bool, device=x.device)
        nodes, _, inside = self.grid.cell_corners(x)
        return inside & self.observed[nodes].all(-1)

    def __call__(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Interpolated values."""
        if self._runs_kernels(x):
            from pmni.kernels.narrow_band import interpolate

            return interpolate(self.kernel_tensors(), x)[0]
        if self.grid.cells <= DENSE_CELLS:
            return self.background(x)
        nodes, fraction, inside = self.grid.cell_corners(x)
        fine = (self.values[nodes] * trilinear(fraction)).sum(-1)
        return torch.where(inside, fine, self.background(x))

    @cached_property
    def node_gradients(self) -> Float[Tensor, "N 3"]:
        """Central differences at the nodes."""
        return self.grid.gradient(self.values)

    def value_and_gradient(
        self, x: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
        """Values, and differences of the nodes interpolated at x (continuous in the band)."""
        if self._runs_kernels(x):
            from pmni.kernels.narrow_band import interpolate

            value, *slopes = interpolate(self.kernel_tensors(with_gradients=True), x)
            return value, torch.stack(slopes, dim=-1)
        nodes, fraction, inside = self.grid.cell_corners(x)
        weights = trilinear(fraction)
        value, gradient = self.background.value_and_gradient(x)
        fine = (self.values[nodes] * weights).sum(-1)
        slope = (self.node_gradients[nodes] * weights[..., None]).sum(-2)
        return torch.where(inside, fine, value), torch.where(inside[:, None], slope, gradient)

    def kernel_tensors(self, with_gradients: bool = False) -> NarrowBandTensors:
        """Values, and the three components of the gradients if asked for, as kernels take them."""
        fine, dense = self.values[None], self.background.values[None]
        if with_gradients:
            fine = torch.cat([fine, self.node_gradients.t()])
            dense = torch.cat([dense, self.background.node_gradients])
        cells = self.grid.cells
        return NarrowBandTensors(
            fine, self.grid.block_numbers, dense, cells, is_dense=cells <= DENSE_CELLS
        )

    def _runs_kernels(self, x: Float[Tensor, "N 3"]) -> bool:
        """Whether kernels compute the values: they have no derivatives."""
        wanted = (
            x.requires_grad or self.values.requires_grad or self.background.values.requires_grad
        )
        single = x.dtype == self.values.dtype == torch.float32
        return single and not (wanted and torch.is_grad_enabled()) and kernels.use_triton(x.device)


def resample(
    sdf: SDF,
    cells: int,
    device: torch.device,
    sweeps: int,
    settings: NarrowBandSettings = DEFAULTS,
) -> NarrowBandSDF:
    """`sdf` on a grid of `cells` along a side around its surface, reinitialised by `sweeps`."""
    if cells <= DENSE_CELLS:
        grid = BlockGrid.dense(cells, device)
    else:
        everywhere = torch.ones((cells // BLOCK + 1,) * 3, dtype=torch.bool, device=device)
        width = settings.half_width_cells + settings.margin_cells
        grid = BlockGrid(cells, _near_blocks(sdf, cells, width, everywhere))
    coarse = max(min(cells, DENSE_CELLS), cells // 4) + 1
    nodes = grid_nodes(coarse, device).view(-1, 3)
    background = GridSDF(evaluate_in_chunks(sdf, nodes).view(coarse, coarse, coarse))
    return reinitialize(NarrowBandSDF(grid, grid.sample(sdf), background), sweeps, settings)


def reinitialize(
    sdf: NarrowBandSDF, sweeps: int, settings: NarrowBandSettings = DEFAULTS
) -> NarrowBandSDF:
    """`sdf` as a distance function again (|grad f| = 1), its surface unmoved and values truncated.

    The background takes the fine grid's values where both have nodes.
    """
    grid, background = sdf.grid, sdf.background.values
    fixed = sdf.values.abs() <= settings.fixed_cells * grid.spacing
    values = reinitialize_values(grid, sdf.values, fixed, sweeps)
    index, fine = grid.coarser_nodes(grid.cells // (len(background) - 1))
    background = background.masked_scatter(fine, values[index])
    if len(index) < background.numel():
        background = reinitialize_dense_values(background, fine, sweeps)
    limit = settings.truncation_cells * 2 / (len(background) - 1)
    truncated = GridSDF(background.clamp(-limit, limit))
    return NarrowBandSDF(grid, values.clamp(-limit, limit), truncated)


def rebuild_band(sdf: NarrowBandSDF, settings: NarrowBandSettings = DEFAULTS) -> NarrowBandSDF:
    """`sdf` on blocks around its surface again, if the surface came near to the band's end.

    The background must agree with the band (see `reinitialize`).
    """
    grid = sdf.grid
    if grid.cells <= DENSE_CELLS:
        return sdf
    reachable = max_pool3d(grid.active[None].float(), 3, stride=1, padding=1)[0] > 0
    half_width = settings.half_width_cells
    missing = _near_blocks(sdf, grid.cells, half_width, reachable & ~grid.active)
    if not missing.any():
        return sdf
    width = half_width + settings.margin_cells
    grid = BlockGrid(grid.cells, _near_blocks(sdf, grid.cells, width, reachable))
    first = sdf.grid.node_indices(grid.blocks * BLOCK)
    kept = first >= 0
    values = sdf.values.new_empty(len(grid.blocks), BLOCK**3)
    values[kept] = sdf.values.view(-1, BLOCK**3)[first[kept] // BLOCK**3]
    values[~kept] = grid.sample(sdf, grid.blocks[~kept]).view(-1, BLOCK**3)
    return NarrowBandSDF(grid, values.view(-1), sdf.background)


def _near_blocks(
    sdf: SDF, cells: int, width: float, candidates: Bool[Tensor, "m m m"]
) -> Bool[Tensor, "m m m"]:
    """Which candidate blocks reach within `width` cells of the surface."""
    spacing = 2 / cells
    centres = (torch.nonzero(candidates) * BLOCK + (BLOCK - 1) / 2) * spacing - 1
    near = evaluate_in_chunks(sdf, centres).abs() < (width + BLOCK / 2) * spacing
    return torch.zeros_like(candidates).masked_scatter(candidates, near)


def evaluate_in_chunks(sdf: SDF, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
    """f at many points, with little memory."""
    return torch.cat([sdf(part) for part in x.split(CHUNK)])
