"""A signed distance function on a fine sparse grid around its surface, and a coarse one beyond."""

from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool3d

from pmni import kernels
from pmni.kernels.types import NarrowBandTensors
from pmni.sdf.block_grid import BLOCK, BlockGrid, trilinear
from pmni.sdf.grid import GridSDF, grid_nodes
from pmni.sdf.reinitialization import reinitialized_values, reinitialized_values_dense
from pmni.sdf.sdf import SDF

HALF_WIDTH = 4.0
"""The blocks whose middle is within this many cells and half a block of the surface are on: all
points within 1.6 cells of it are in the fine grid, and most within this many."""
SPARE = 1.5
"""Cells beyond that, which are switched on too, so that the surface may move a little."""
DENSE_CELLS = 64
"""A grid of so many cells along a side, or fewer, has all its nodes. The coarse grid has as many,
or a quarter of the fine one's if that is more."""
FROZEN = 1.5
"""Cells from the surface within which redistancing leaves the values alone."""
CLIP = 8.0
"""Cells (of the coarse grid) to which values are limited."""


class NarrowBandSDF:
    """Trilinear in the cells of `grid`, whose nodes have `values`; elsewhere the `background`'s.

    A grid that has all its nodes is its own background: both hold the same values.
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
        """Whether all corners of the cells around points are observed; True where nobody says."""
        if self.observed is None:
            return torch.ones(len(x), dtype=torch.bool, device=x.device)
        rows, _, inside = self.grid.cell_corners(x)
        return inside & self.observed[rows].all(-1)

    def __call__(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Interpolated values."""
        if self._runs_kernels(x):
            from pmni.kernels.band import interpolate

            return interpolate(self.kernel_tensors(), x)[0]
        if self.grid.cells <= DENSE_CELLS:
            return self.background(x)
        rows, place, inside = self.grid.cell_corners(x)
        fine = (self.values[rows] * trilinear(place)).sum(-1)
        return torch.where(inside, fine, self.background(x))

    @cached_property
    def node_gradients(self) -> Float[Tensor, "N 3"]:
        """Differences at the nodes."""
        return self.grid.gradient(self.values)

    def value_and_gradient(
        self, x: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
        """Values, and differences of the nodes interpolated at x (continuous in the band)."""
        if self._runs_kernels(x):
            from pmni.kernels.band import interpolate

            value, *slopes = interpolate(self.kernel_tensors(with_gradients=True), x)
            return value, torch.stack(slopes, dim=-1)
        rows, place, inside = self.grid.cell_corners(x)
        weights = trilinear(place)
        value, gradient = self.background.value_and_gradient(x)
        fine = (self.values[rows] * weights).sum(-1)
        slope = (self.node_gradients[rows] * weights[..., None]).sum(-2)
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
        """Whether kernels find values; they have no derivatives."""
        wanted = (
            x.requires_grad or self.values.requires_grad or self.background.values.requires_grad
        )
        single = x.dtype == self.values.dtype == torch.float32
        return single and not (wanted and torch.is_grad_enabled()) and kernels.use_triton(x.device)


def resample(sdf: SDF, cells: int, device: torch.device, sweeps: int) -> NarrowBandSDF:
    """`sdf` on the grid of so many cells around its surface."""
    if cells <= DENSE_CELLS:
        grid = BlockGrid.dense(cells, device)
    else:
        everywhere = torch.ones((cells // BLOCK + 1,) * 3, dtype=torch.bool, device=device)
        grid = BlockGrid(cells, _near(sdf, cells, HALF_WIDTH + SPARE, everywhere))
    coarse = max(min(cells, DENSE_CELLS), cells // 4) + 1
    nodes = grid_nodes(coarse, device).view(-1, 3)
    background = GridSDF(evaluate_in_chunks(sdf, nodes).view(coarse, coarse, coarse))
    return reinitialize(NarrowBandSDF(grid, grid.sampled(sdf), background), sweeps)


def reinitialize(sdf: NarrowBandSDF, sweeps: int) -> NarrowBandSDF:
    """`sdf` redistanced, with a background that agrees with it where both have nodes."""
    grid, background = sdf.grid, sdf.background.values
    near = sdf.values.abs() <= FROZEN * grid.spacing
    values = reinitialized_values(grid, sdf.values, near, sweeps)
    rows, known = grid.coarser_nodes(grid.cells // (len(background) - 1))
    background = background.masked_scatter(known, values[rows])
    if len(rows) < background.numel():
        background = reinitialized_values_dense(background, known, sweeps)
    limit = CLIP * 2 / (len(background) - 1)
    return NarrowBandSDF(
        grid, values.clamp(-limit, limit), GridSDF(background.clamp(-limit, limit))
    )


def rebuild_band(sdf: NarrowBandSDF) -> NarrowBandSDF:
    """`sdf` on blocks that surround its surface again, if the surface came near to their end.

    The background must agree with the band (`reinitialize`)."""
    grid = sdf.grid
    if grid.cells <= DENSE_CELLS:
        return sdf
    reachable = max_pool3d(grid.active[None].float(), 3, stride=1, padding=1)[0] > 0
    needed = _near(sdf, grid.cells, HALF_WIDTH, reachable & ~grid.active)
    if not needed.any():
        return sdf
    grid = BlockGrid(grid.cells, _near(sdf, grid.cells, HALF_WIDTH + SPARE, reachable))
    first = sdf.grid.node_indices(grid.blocks * BLOCK)
    kept = first >= 0
    values = sdf.values.new_empty(len(grid.blocks), BLOCK**3)
    values[kept] = sdf.values.view(-1, BLOCK**3)[first[kept] // BLOCK**3]
    values[~kept] = grid.sampled(sdf, grid.blocks[~kept]).view(-1, BLOCK**3)
    return NarrowBandSDF(grid, values.view(-1), sdf.background)


def _near(
    sdf: SDF, cells: int, width: float, among: Bool[Tensor, "m m m"]
) -> Bool[Tensor, "m m m"]:
    """Which of some blocks reach within `width` cells of the surface."""
    spacing = 2 / cells
    centres = (torch.nonzero(among) * BLOCK + (BLOCK - 1) / 2) * spacing - 1
    near = evaluate_in_chunks(sdf, centres).abs() < (width + BLOCK / 2) * spacing
    return torch.zeros_like(among).masked_scatter(among, near)


def evaluate_in_chunks(sdf: SDF, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
    """f at many points, with little memory."""
    return torch.cat([sdf(part) for part in x.split(2**18)])
