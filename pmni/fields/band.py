"""A signed distance function on a fine sparse grid around its surface, and a coarse one beyond."""

from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pmni.fields.block_grid import BLOCK, BlockGrid, trilinear
from pmni.fields.grid import GridSDF, grid_nodes
from pmni.fields.redistancing import redistance, redistance_dense
from pmni.fields.sdf import SDF

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


class BandSDF:
    """Trilinear in the cells of `grid`, whose nodes have `values`; elsewhere the `base`'s.

    A grid that has all its nodes is its own base: both hold the same values.
    """

    def __init__(
        self,
        grid: BlockGrid,
        values: Float[Tensor, "N"],
        base: GridSDF,
        seen: Bool[Tensor, "N"] | None = None,
    ) -> None:
        self.grid, self.values, self.base, self.seen = grid, values, base, seen

    def is_seen(self, x: Float[Tensor, "N 3"]) -> Bool[Tensor, "N"]:
        """Whether the cells around points belong to what cameras have seen; all do if unknown."""
        if self.seen is None:
            return torch.ones(len(x), dtype=torch.bool, device=x.device)
        rows, _, inside = self.grid.corners(x)
        return inside & self.seen[rows].all(-1)

    def __call__(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Interpolated values."""
        if self.grid.cells <= DENSE_CELLS:
            return self.base(x)
        rows, place, inside = self.grid.corners(x)
        fine = (self.values[rows] * trilinear(place)).sum(-1)
        return torch.where(inside, fine, self.base(x))

    @cached_property
    def node_gradients(self) -> Float[Tensor, "N 3"]:
        """Differences at the nodes."""
        return self.grid.gradient(self.values)

    def value_and_gradient(
        self, x: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N 3"]]:
        """Values, and differences of the nodes interpolated at x (continuous in the band)."""
        rows, place, inside = self.grid.corners(x)
        weights = trilinear(place)
        value, gradient = self.base.value_and_gradient(x)
        fine = (self.values[rows] * weights).sum(-1)
        slope = (self.node_gradients[rows] * weights[..., None]).sum(-2)
        return torch.where(inside, fine, value), torch.where(inside[:, None], slope, gradient)


def on_grid(sdf: SDF, cells: int, device: torch.device, sweeps: int) -> BandSDF:
    """`sdf` on the grid of so many cells around its surface."""
    grid = _around(sdf, cells, HALF_WIDTH + SPARE, device)
    coarse = max(min(cells, DENSE_CELLS), cells // 4) + 1
    base = GridSDF(sdf(grid_nodes(coarse, device).view(-1, 3)).view(coarse, coarse, coarse))
    return as_distance(BandSDF(grid, grid.sampled(sdf), base), sweeps)


def as_distance(sdf: BandSDF, sweeps: int) -> BandSDF:
    """`sdf` redistanced, with a base that agrees with it where both have nodes."""
    grid, base = sdf.grid, sdf.base.values
    near = sdf.values.abs() <= FROZEN * grid.spacing
    values = redistance(grid, sdf.values, near, sweeps)
    axis = torch.arange(len(base), device=grid.device) * (grid.cells // (len(base) - 1))
    rows = grid.rows(torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1))
    known = rows >= 0
    base = torch.where(known, values[rows.clamp(min=0)], base)
    if not known.all():
        base = redistance_dense(base, known, sweeps)
    limit = CLIP * 2 / (len(base) - 1)
    return BandSDF(grid, values.clamp(-limit, limit), GridSDF(base.clamp(-limit, limit)))


def following(sdf: BandSDF) -> BandSDF:
    """`sdf` on blocks that surround its surface again, if the surface came near to their end.

    Where its surface is, is asked of the base too: that has to be up to date (`as_distance`)."""
    grid = sdf.grid
    needed = _around(sdf, grid.cells, HALF_WIDTH, grid.device)
    if not bool((needed.active & ~grid.active).any()):
        return sdf
    grid = _around(sdf, grid.cells, HALF_WIDTH + SPARE, grid.device)
    first = sdf.grid.rows(grid.blocks * BLOCK)
    kept = first >= 0
    values = sdf.values.new_empty(len(grid.blocks), BLOCK**3)
    values[kept] = sdf.values.view(-1, BLOCK**3)[first[kept] // BLOCK**3]
    values[~kept] = grid.sampled(sdf, grid.blocks[~kept]).view(-1, BLOCK**3)
    return BandSDF(grid, values.view(-1), sdf.base)


def _around(sdf: SDF, cells: int, width: float, device: torch.device) -> BlockGrid:
    """The grid with the blocks that reach within `width` cells of the surface."""
    if cells <= DENSE_CELLS:
        return BlockGrid.dense(cells, device)
    side = cells // BLOCK + 1
    axis = (torch.arange(side, device=device) * BLOCK + (BLOCK - 1) / 2) * (2 / cells) - 1
    centres = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    reach = (width + BLOCK / 2) * (2 / cells)
    return BlockGrid(cells, (sdf(centres.view(-1, 3)).abs() < reach).view(side, side, side))
