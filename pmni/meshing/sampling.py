"""Finding the cells of a fine grid that a surface crosses, from coarse to fine."""

from itertools import product

import torch
from jaxtyping import Bool, Float32, Int32
from torch import Tensor

from pmni.meshing.cases import CORNERS
from pmni.meshing.node_tiles import Evaluate, NodeTiles, compress, without_copies
from pmni.meshing.sparse_grid import SparseGrid

FEWEST_COARSE_CELLS = 48
"""The coarse grid has at least this many cells along a side; coarser ones could overlook parts."""
MARGIN = 1.5
"""How much steeper than between its corners the function may be inside a cell."""

_TO_NEAREST = 3**0.5 / 2
"""From the middle of a cube to its corners: no point in it is farther from the nearest corner."""
_TO_MEAN = (3 + 3 * 2**0.5 + 3**0.5) / 8
"""From a corner of a cube to all of them on average: at no point in it is the average larger."""
_BRICK_CELLS = [[9 * (i + x) + 3 * (j + y) + k + z for x, y, z in CORNERS] for i, j, k in CORNERS]
"""For the 8 cells of a brick: which of its 27 nodes are their corners."""
_BRICK = torch.arange(27).view(3, 3, 3)
_BRICK_FACES = [
    (axis, 2 * (side - 1), _BRICK.select(axis, side).flatten().tolist())
    for axis, side in product(range(3), (0, 2))
]
"""For the 6 faces of a brick: the step to the brick beyond it, and which nodes lie on it."""


def sample(evaluate: Evaluate, resolution: int, device: torch.device) -> SparseGrid:
    """Sample `evaluate` ((N, 3) -> (N,), zero on the surface) on [-1, 1]^3, coarse to fine.

    A cell is refined when its corners change sign or when, at the slope seen between them times
    MARGIN (or 1 if they are flatter), the values at its corners and in its middle allow the surface
    to reach into it. Then the surface is followed: wherever it leaves the refined cells, the cells
    beyond are refined too. No node inside the box is evaluated twice.

    Raises DivergenceError for values that are not finite.
    """
    stride = 1
    while resolution // (2 * stride) >= FEWEST_COARSE_CELLS:
        stride *= 2
    tiles = NodeTiles(evaluate, resolution, stride, device)
    bricks = tiles.all_bricks()
    while True:
        tiles.add(bricks)
        bricks = _followed(tiles, bricks)
        if stride == 1:
            return _crossed_cells(tiles, bricks)
        near, reach = _near_cells(tiles, bricks)
        stride //= 2
        tiles = NodeTiles(evaluate, resolution, stride, device, tiles)
        bricks = compress(near, tiles.middles(near).abs() <= reach)


def _values(tiles: NodeTiles, bricks: Int32[Tensor, "3 M"]) -> Float32[Tensor, "27 M"]:
    rows = tiles.rows(bricks)
    return tiles.values.index_select(0, rows.view(-1)).view(rows.shape)


def _followed(tiles: NodeTiles, bricks: Int32[Tensor, "3 M"]) -> Int32[Tensor, "3 N"]:
    """The bricks, and all bricks into which the surface leads on."""
    found = [bricks]
    while bricks.shape[1]:
        beyond = []
        for part in tiles.parts(bricks):
            values = _values(tiles, part)
            for axis, step, face in _BRICK_FACES:
                crossed = compress(part, _differ(values[face]))
                crossed[axis] += step
                beyond.append(tiles.fresh(tiles.within(crossed)))
        bricks = without_copies(torch.cat(beyond, dim=1))
        tiles.add(bricks)
        found.append(bricks)
    return torch.cat(found, dim=1)


def _near_cells(
    tiles: NodeTiles, bricks: Int32[Tensor, "3 M"]
) -> tuple[Int32[Tensor, "3 N"], Float32[Tensor, " N"]]:
    """Cells that can hold the surface, as bricks of half the stride; and how large their value in
    the middle may be for that (infinite where the corners change sign)."""
    spacing = 2 * tiles.stride / tiles.resolution
    near, reaches = [], []
    for part in tiles.parts(bricks):
        values = _values(tiles, part)
        slopes = _slopes(values.view(3, 3, 3, -1)).clamp(min=spacing).flatten(0, 2)
        for offset, corners, slope in zip(CORNERS, _BRICK_CELLS, slopes, strict=True):
            here = values[corners]
            limit = MARGIN * slope
            can = here.abs().amin(0) <= _TO_NEAREST * limit
            can &= here.mean(0).abs() <= _TO_MEAN * limit
            differ = _differ(here)
            reach = torch.where(differ, torch.inf, _TO_NEAREST * limit)
            can |= differ
            near.append(2 * (compress(part, can) + part.new_tensor(offset)[:, None]))
            reaches.append(compress(reach, can))
    cells, reach = torch.cat(near, dim=1), torch.cat(reaches)
    inside = cells.amax(0) * (tiles.stride // 2) < tiles.resolution
    return compress(cells, inside), compress(reach, inside)


def _slopes(values: Float32[Tensor, "3 3 3 m"]) -> Float32[Tensor, "2 2 2 m"]:
    """The largest difference along an edge of each cell."""
    largest = values.new_zeros(2, 2, 2, values.shape[-1])
    for axis in range(3):
        steps = values.diff(dim=axis).abs()
        for other in {0, 1, 2} - {axis}:
            steps = torch.maximum(steps.narrow(other, 0, 2), steps.narrow(other, 1, 2))
        largest = torch.maximum(largest, steps)
    return largest


def _crossed_cells(tiles: NodeTiles, bricks: Int32[Tensor, "3 M"]) -> SparseGrid:
    """The cells whose corners differ in sign; tiles of stride 1."""
    found = []
    used = torch.zeros_like(tiles.taken)
    for part in tiles.parts(bricks):
        rows = tiles.rows(compress(part, _differ(_values(tiles, part))))
        values = tiles.values.index_select(0, rows.view(-1)).view(rows.shape)
        for corners in _BRICK_CELLS:
            cells = compress(rows[corners], _differ(values[corners]))
            found.append(compress(cells, tiles.nodes(cells[0]).amax(0) < tiles.resolution))
            used.scatter_(0, found[-1].view(-1).long(), True)
    rows = torch.cat(found, dim=1)
    rows = rows.index_select(1, rows[0].argsort())
    kept = torch.nonzero(used)[:, 0].int()
    number = torch.zeros(len(used), dtype=torch.int32, device=tiles.device)
    number[kept.long()] = torch.arange(len(kept), dtype=torch.int32, device=tiles.device)
    return SparseGrid(
        tiles.resolution,
        tiles.nodes(kept),
        tiles.values.index_select(0, kept),
        number.index_select(0, rows.view(-1)).view(rows.shape),
        tiles.evaluations,
    )


def _differ(values: Float32[Tensor, "k m"]) -> Bool[Tensor, " m"]:
    """Whether values change sign."""
    return (values.amin(0) < 0) & (values.amax(0) >= 0)
