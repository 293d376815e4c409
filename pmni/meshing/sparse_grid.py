"""A signed distance function sampled on a fine grid, but only where its surface can be."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int

from pmni.errors import DivergenceError

FEWEST_COARSE_CELLS = 48
"""The coarse grid has at least this many cells along a side; coarser ones could overlook parts."""
MARGIN = 1.5
"""How much steeper than between its corners the function may be inside a cell."""
CHUNK = 1 << 16
"""Points evaluated at once."""

_BRICK = np.array(list(product(range(3), repeat=3)))
_HALF_DIAGONAL = np.sqrt(3) / 2

Evaluate = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class SparseGrid:
    """Values at the corners of bricks of 2 x 2 x 2 cells, among them every cell with the surface.

    Corner (i, j, k) lies at -1 + 2 (i, j, k) / resolution. Corners beyond the resolution (in the
    last bricks of an odd one) repeat the values at it.
    """

    resolution: int
    bricks: Int[np.ndarray, "M 3"]
    """Lowest corner of each brick; even."""
    values: Float32[np.ndarray, "M 3 3 3"]
    evaluations: int
    """How many values were computed."""

    def blocks(
        self, size: int
    ) -> Iterator[tuple[Int[np.ndarray, "3"], Float32[np.ndarray, "I J K"]]]:
        """Dense blocks of `size` (even) cells a side that cover the bricks: origin, corner values.

        Corners that no brick has take the value of one that they are connected to without
        crossing the surface: right in sign, which is all that marching cubes asks of them.
        """
        owner = self.bricks // size
        order = np.lexsort(owner.T[::-1])
        starts = np.flatnonzero(np.any(np.diff(owner[order], axis=0, prepend=-1), axis=1))
        for members in np.split(order, starts[1:]):
            origin = owner[members[0]] * size
            block = np.full((size + 2,) * 3, np.nan, np.float32)
            i, j, k = (self.bricks[members] - origin)[:, None].T + _BRICK.T[:, :, None]
            block[i, j, k] = self.values[members].reshape(-1, 27).T
            shape = np.minimum(size, self.resolution - origin) + 1
            yield origin, _fill(block[: shape[0], : shape[1], : shape[2]])


def sample(evaluate: Evaluate, resolution: int, device: torch.device) -> SparseGrid:
    """Sample `evaluate` ((N, 3) -> (N,), zero on the surface) on [-1, 1]^3, coarse to fine.

    A cell is refined when its corners change sign or lie so near to zero that, at the slope seen
    between them times MARGIN (or 1 if they are flatter), the surface can reach into it. Then the
    surface is followed: wherever it leaves the refined bricks, the bricks beyond are added. Only
    bricks with the surface are kept. Raises DivergenceError for values that are not finite.
    """
    sampler = _Sampler(evaluate, resolution, device)
    stride = 2
    while resolution // (2 * stride) >= FEWEST_COARSE_CELLS:
        stride *= 2
    cells = -(-resolution // stride)
    coarse = np.indices((cells,) * 3).reshape(3, -1).T * stride
    lattice = np.indices((cells + 1,) * 3).reshape(3, -1).T * stride
    values = sampler(lattice).reshape((1,) + (cells + 1,) * 3)
    near = _near(values, 2 * stride / resolution).reshape(-1)
    bricks = coarse[near] if cells >= FEWEST_COARSE_CELLS // 2 else coarse
    while True:
        stride //= 2
        bricks, values = _follow(sampler, bricks, stride)
        if stride == 1:
            break
        near = _near(values, 2 * stride / resolution)
        brick, *offset = np.nonzero(near)
        bricks = bricks[brick] + stride * np.stack(offset, -1)
        bricks = bricks[(bricks < resolution).all(1)]
    crossed = _crossed(values.reshape(-1, 27))
    return SparseGrid(resolution, bricks[crossed], values[crossed], sampler.evaluations)


class _Sampler:
    """Values at grid corners; counts them and refuses those that are not finite."""

    def __init__(self, evaluate: Evaluate, resolution: int, device: torch.device) -> None:
        self.evaluate, self.resolution, self.device = evaluate, resolution, device
        self.evaluations = 0

    @torch.no_grad()
    def __call__(self, corners: Int[np.ndarray, "N 3"]) -> Float32[np.ndarray, "N"]:
        clamped = np.minimum(corners, self.resolution)
        values = np.empty(len(clamped), np.float32)
        for start in range(0, len(clamped), CHUNK):
            part = (clamped[start : start + CHUNK] * (2 / self.resolution) - 1).astype(np.float32)
            found = self.evaluate(torch.from_numpy(part).to(self.device))
            values[start : start + CHUNK] = found.float().cpu().numpy()
        bad = np.count_nonzero(~np.isfinite(values))
        if bad:
            raise DivergenceError(
                f"mesh: the surface model has {bad} values that are not finite "
                f"(of {len(values)} on the grid)"
            )
        self.evaluations += len(values)
        return values

    def bricks(self, bricks: Int[np.ndarray, "M 3"], stride: int) -> Float32[np.ndarray, "M 3 3 3"]:
        """Values at the 27 corners, `stride` apart, of bricks with these lowest corners."""
        key, index = np.unique(self.key(bricks[:, None] + stride * _BRICK), return_inverse=True)
        side = self.resolution + 3
        corners = np.stack([key // side**2, key // side % side, key % side], -1)
        return self(corners)[index].reshape(-1, 3, 3, 3)

    def key(self, corners: Int[np.ndarray, "*n 3"]) -> Int[np.ndarray, "*n"]:
        """A number for each corner inside the box or just beyond it."""
        side = self.resolution + 3
        return np.minimum(corners, side - 1) @ np.array([side**2, side, 1])


def _follow(
    sampler: _Sampler, bricks: Int[np.ndarray, "M 3"], stride: int
) -> tuple[Int[np.ndarray, "N 3"], Float32[np.ndarray, "N 3 3 3"]]:
    """The bricks and their values, and those of all bricks into which the surface leads on."""
    values = sampler.bricks(bricks, stride)
    added, found = bricks, values
    while len(added):
        beyond = []
        for axis, side in product(range(3), (0, 2)):
            face = found.take(side, axis=axis + 1).reshape(-1, 9)
            step = np.zeros(3, int)
            step[axis] = (side - 1) * 2 * stride
            beyond.append(added[_crossed(face)] + step)
        added = np.concatenate(beyond)
        added = added[((added >= 0) & (added < sampler.resolution)).all(1)]
        added = np.unique(added[~_contains(sampler.key(bricks), sampler.key(added))], axis=0)
        found = sampler.bricks(added, stride)
        bricks, values = np.concatenate([bricks, added]), np.concatenate([values, found])
    return bricks, values


def _contains(keys: Int[np.ndarray, "M"], sought: Int[np.ndarray, "N"]) -> Bool[np.ndarray, "N"]:
    keys = np.sort(keys)
    return keys[np.searchsorted(keys[:-1], sought)] == sought


def _crossed(values: Float32[np.ndarray, "M n"]) -> Bool[np.ndarray, "M"]:
    return (values.min(1) < 0) & (values.max(1) >= 0)


def _near(
    values: Float32[np.ndarray, "M a b c"], spacing: float
) -> Bool[np.ndarray, "M a-1 b-1 c-1"]:
    """Cells that can hold the surface."""
    magnitude = np.abs(values)
    slope = np.float32(spacing)
    for axis in (1, 2, 3):
        others = [other for other in (1, 2, 3) if other != axis]
        slope = np.maximum(slope, _reduce(np.maximum, np.abs(np.diff(values, axis=axis)), others))
    near = _reduce(np.minimum, magnitude, [1, 2, 3]) <= MARGIN * _HALF_DIAGONAL * slope
    low, high = _reduce(np.minimum, values, [1, 2, 3]), _reduce(np.maximum, values, [1, 2, 3])
    return near | ((low < 0) & (high >= 0))


def _reduce(operation: np.ufunc, values: np.ndarray, axes: list[int]) -> np.ndarray:
    """Combine neighbours along each of the axes."""
    for axis in axes:
        front, back = [slice(None)] * values.ndim, [slice(None)] * values.ndim
        front[axis], back[axis] = slice(None, -1), slice(1, None)
        values = operation(values[tuple(front)], values[tuple(back)])
    return values


def _fill(values: Float32[np.ndarray, "I J K"]) -> Float32[np.ndarray, "I J K"]:
    """NaN replaced by the nearest value before or else behind it, along the last axis with one."""
    for axis in (2, 1, 0):
        planes = np.moveaxis(values, axis, 0)
        for ordered in (planes, planes[::-1]):
            for before, plane in pairwise(ordered):
                np.copyto(plane, before, where=np.isnan(plane))
    return values
