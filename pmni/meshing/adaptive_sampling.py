"""Search for the cells of a fine grid that a surface crosses, from coarse to fine."""

from itertools import product

import torch
from jaxtyping import Bool, Float32, Int32
from torch import Tensor

from pmni.config.meshing import SurfaceSamplingSettings
from pmni.meshing.case_table import CORNERS
from pmni.meshing.node_cache import Evaluate, NodeCache, compress, unique_nodes
from pmni.meshing.sparse_grid import SparseGrid

_NEAREST_CORNER = 3**0.5 / 2
"""Largest distance of a point in the unit cube from its nearest corner."""
_MEAN_CORNER = (3 + 3 * 2**0.5 + 3**0.5) / 8
"""Largest mean distance of a point in the unit cube from all corners."""
_BLOCK_CELLS = [[9 * (i + x) + 3 * (j + y) + k + z for x, y, z in CORNERS] for i, j, k in CORNERS]
"""Corners of the 8 cells of a block, as numbers of its 27 nodes."""
_BLOCK_NODES = torch.arange(27).view(3, 3, 3)
_BLOCK_FACES = [
    (axis, 2 * (side - 1), _BLOCK_NODES.select(axis, side).flatten().tolist())
    for axis, side in product(range(3), (0, 2))
]
"""Axis of, step across, and nodes on each of the 6 faces of a block."""


def sample_near_surface(
    evaluate: Evaluate, resolution: int, settings: SurfaceSamplingSettings, device: torch.device
) -> SparseGrid:
    """The cells of [-1, 1]^3 whose corners change sign, sampled from coarse to fine.

    A cell is refined when its corners change sign, or when the values at its corners and at its
    centre allow the surface to reach into it at the largest slope between its corners (at least 1)
    times `slope_margin`. Then the surface is tracked: wherever it leaves the refined cells, the
    cells beyond are refined too. No node inside the box is evaluated twice.

    Raises DivergenceError for values that are not finite.
    """
    stride = 1
    while resolution // (2 * stride) >= settings.min_coarse_cells:
        stride *= 2
    cache = NodeCache(evaluate, resolution, stride, device)
    blocks = cache.all_blocks()
    while True:
        cache.visit(blocks)
        blocks = _track_surface(cache, blocks)
        if stride == 1:
            return _crossed_cells(cache, blocks)
        near, bound = _near_cells(cache, blocks, settings.slope_margin)
        stride //= 2
        cache = NodeCache(evaluate, resolution, stride, device, cache)
        blocks = compress(near, cache.centre_values(near).abs() <= bound)


def _values(cache: NodeCache, blocks: Int32[Tensor, "3 M"]) -> Float32[Tensor, "27 M"]:
    positions = cache.positions(blocks)
    return cache.values.index_select(0, positions.view(-1)).view(positions.shape)


def _track_surface(cache: NodeCache, blocks: Int32[Tensor, "3 M"]) -> Int32[Tensor, "3 N"]:
    """The blocks, and all blocks that are reached from them along the surface."""
    tracked = [blocks]
    while blocks.shape[1]:
        beyond = []
        for chunk in cache.chunks(blocks):
            values = _values(cache, chunk)
            for axis, step, face in _BLOCK_FACES:
                crossed = compress(chunk, _changes_sign(values[face]))
                crossed[axis] += step
                beyond.append(cache.unvisited(cache.inside_box(crossed)))
        blocks = unique_nodes(torch.cat(beyond, dim=1))
        cache.visit(blocks)
        tracked.append(blocks)
    return torch.cat(tracked, dim=1)


def _near_cells(
    cache: NodeCache, blocks: Int32[Tensor, "3 M"], slope_margin: float
) -> tuple[Int32[Tensor, "3 N"], Float32[Tensor, " N"]]:
    """Cells that may hold the surface, as blocks of half the stride; and the largest magnitude of
    the value at their centre for that (infinite where the corners change sign)."""
    spacing = 2 * cache.stride / cache.resolution
    near, bounds = [], []
    for chunk in cache.chunks(blocks):
        values = _values(cache, chunk)
        slopes = _slopes(values.view(3, 3, 3, -1)).clamp(min=spacing).flatten(0, 2)
        for offset, corners, slope in zip(CORNERS, _BLOCK_CELLS, slopes, strict=True):
            corner_values = values[corners]
            limit = slope_margin * slope
            may_cross = corner_values.abs().amin(0) <= _NEAREST_CORNER * limit
            may_cross &= corner_values.mean(0).abs() <= _MEAN_CORNER * limit
            changes = _changes_sign(corner_values)
            bound = torch.where(changes, torch.inf, _NEAREST_CORNER * limit)
            may_cross |= changes
            near.append(2 * (compress(chunk, may_cross) + chunk.new_tensor(offset)[:, None]))
            bounds.append(compress(bound, may_cross))
    cells, bound = torch.cat(near, dim=1), torch.cat(bounds)
    inside = cells.amax(0) * (cache.stride // 2) < cache.resolution
    return compress(cells, inside), compress(bound, inside)


def _slopes(values: Float32[Tensor, "3 3 3 m"]) -> Float32[Tensor, "2 2 2 m"]:
    """The largest difference of values along an edge of each cell."""
    largest = values.new_zeros(2, 2, 2, values.shape[-1])
    for axis in range(3):
        steps = values.diff(dim=axis).abs()
        for other in {0, 1, 2} - {axis}:
            steps = torch.maximum(steps.narrow(other, 0, 2), steps.narrow(other, 1, 2))
        largest = torch.maximum(largest, steps)
    return largest


def _crossed_cells(cache: NodeCache, blocks: Int32[Tensor, "3 M"]) -> SparseGrid:
    """The cells whose corners differ in sign; the cache has stride 1."""
    crossed = []
    used = torch.zeros_like(cache.visited)
    for chunk in cache.chunks(blocks):
        positions = cache.positions(compress(chunk, _changes_sign(_values(cache, chunk))))
        values = cache.values.index_select(0, positions.view(-1)).view(positions.shape)
        for corners in _BLOCK_CELLS:
            cells = compress(positions[corners], _changes_sign(values[corners]))
            crossed.append(compress(cells, cache.nodes(cells[0]).amax(0) < cache.resolution))
            used.scatter_(0, crossed[-1].view(-1).long(), True)
    positions = torch.cat(crossed, dim=1)
    positions = positions.index_select(1, positions[0].argsort())
    kept = torch.nonzero(used)[:, 0].int()
    number = torch.zeros(len(used), dtype=torch.int32, device=cache.device)
    number[kept.long()] = torch.arange(len(kept), dtype=torch.int32, device=cache.device)
    return SparseGrid(
        cache.resolution,
        cache.nodes(kept),
        cache.values.index_select(0, kept),
        number.index_select(0, positions.view(-1)).view(positions.shape),
        cache.evaluations,
    )


def _changes_sign(values: Float32[Tensor, "k m"]) -> Bool[Tensor, " m"]:
    """Whether values change sign (along the first axis)."""
    return (values.amin(0) < 0) & (values.amax(0) >= 0)
