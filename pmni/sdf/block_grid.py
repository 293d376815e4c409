"""A sparse regular grid: nodes in blocks of 4 x 4 x 4, of which only some are active."""

from collections.abc import Callable
from functools import cache, cached_property
from itertools import product

import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor
from torch.nn.functional import pad

from pmni.kernels.constants import BLOCK

CHUNK_BLOCKS = 2**12
"""Blocks processed at a time where memory counts."""

# Indices along an axis.
_CUBE = range(2)  # of a cell's corners
_NODES = range(BLOCK)  # of a block's nodes
_HALO = range(-1, BLOCK + 1)  # of these and the nodes around them
_PARENTS = range(BLOCK // 2 + 1)  # of the coarser nodes that they lie between


class BlockGrid:
    """Nodes (i, j, k) at -1 + 2 (i, j, k) / cells, in the active blocks.

    Functions on the grid are tensors (N,), N = BLOCK^3 times the number of active blocks: a value
    for each node, block by block; its position there is the node's index. `cells` is a multiple of
    BLOCK; the last blocks reach beyond the box.
    """

    def __init__(self, cells: int, active: Bool[Tensor, "m m m"]) -> None:
        assert cells == (len(active) - 1) * BLOCK
        self.cells = cells
        self.spacing = 2 / cells
        self.active = active
        self.blocks = torch.nonzero(active).contiguous()
        numbers = torch.full(active.shape, -1, dtype=torch.int32, device=active.device)
        count = len(self.blocks)
        numbers[active] = torch.arange(count, dtype=torch.int32, device=active.device)
        # A border of inactive blocks saves a test at every look-up.
        self.block_numbers = pad(numbers, (1,) * 6, value=-1).view(-1)
        self._side = len(active) + 2

    @staticmethod
    def dense(cells: int, device: torch.device) -> "BlockGrid":
        """The grid whose blocks are all active."""
        side = cells // BLOCK + 1
        return BlockGrid(cells, torch.ones(side, side, side, dtype=torch.bool, device=device))

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.active.device

    def __len__(self) -> int:
        """The number of nodes."""
        return len(self.blocks) * BLOCK**3

    def nodes(self, blocks: Int[Tensor, "B 3"] | None = None) -> Int[Tensor, "N 3"]:
        """The coordinates (i, j, k) of the nodes of the given blocks, or of all."""
        inner = _triples(_NODES, self.device)
        chosen = self.blocks if blocks is None else blocks
        return (chosen[:, None] * BLOCK + inner).view(-1, 3)

    def positions(self, blocks: Int[Tensor, "B 3"] | None = None) -> Float[Tensor, "N 3"]:
        """The positions of the nodes of the given blocks, or of all, normalised units."""
        return self.nodes(blocks) * self.spacing - 1

    def sample(
        self, function: Callable[[Tensor], Tensor], blocks: Int[Tensor, "B 3"] | None = None
    ) -> Float[Tensor, " N"]:
        """The values of a function of points at the nodes of the given blocks, or of all."""
        chosen = self.blocks if blocks is None else blocks
        return torch.cat([function(self.positions(part)) for part in chosen.split(CHUNK_BLOCKS)])

    def node_indices(self, nodes: Int[Tensor, "*n 3"]) -> Int[Tensor, "*n"]:
        """The indices of nodes from their coordinates; -1 for inactive ones."""
        block = (nodes.div(BLOCK, rounding_mode="floor") + 1).clamp(0, self._side - 1)
        inner = nodes % BLOCK
        return self._index(_ravel(block, self._side), _ravel(inner, BLOCK))

    def _index(self, block: Int[Tensor, "*n"], inner: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        number = self.block_numbers[block].long()
        return torch.where(number < 0, number, number * BLOCK**3 + inner)

    def coarser_nodes(self, stride: int) -> tuple[Int[Tensor, " M"], Bool[Tensor, "n n n"]]:
        """The active nodes that are nodes of the dense grid with cells `stride` times as large.

        Returns their indices, in the order of that grid, and its mask. `stride` divides BLOCK.
        """
        inner = _triples(range(0, BLOCK, stride), self.device)
        side = self.cells // stride + 1
        nodes = (self.blocks[:, None] * BLOCK + inner).view(-1, 3) // stride
        first = torch.arange(len(self.blocks), device=self.device)[:, None] * BLOCK**3
        index = (first + _ravel(inner, BLOCK)).view(-1)
        within = (nodes < side).all(-1)
        coarse, order = _ravel(nodes[within], side).sort()
        shared = torch.zeros(side**3, dtype=torch.bool, device=self.device)
        shared[coarse] = True
        return index[within][order], shared.view(side, side, side)

    def cell_corners(
        self, x: Float[Tensor, "N 3"]
    ) -> tuple[Int[Tensor, "N 8"], Float[Tensor, "N 3"], Bool[Tensor, " N"]]:
        """The cell around each point: the indices of its corners, the point's fraction of the cell
        along each axis, and whether all corners are active (indices are 0 where not)."""
        position = (x + 1) / self.spacing
        lowest = position.detach().floor().clamp(-BLOCK, self.cells + BLOCK)
        cell = lowest.long()
        pair = torch.stack([cell, cell + 1], dim=-1)  # N 3 2
        block = (pair.div(BLOCK, rounding_mode="floor") + 1).clamp(0, self._side - 1)
        index = self._index(_combine(block, self._side), _combine(pair % BLOCK, BLOCK))
        inside = (index >= 0).all(-1)
        return torch.where(inside[:, None], index, 0), position - lowest, inside

    @cached_property
    def halo(self) -> Int32[Tensor, "B 216"]:
        """Indices of each block's nodes and of those around it (6^3); inactive nodes are replaced
        by the block's nearest."""
        around = _triples(_HALO, self.device)
        inner = around.clamp(0, BLOCK - 1)
        parts = []
        for blocks in self.blocks.split(CHUNK_BLOCKS):
            index = self.node_indices(blocks[:, None] * BLOCK + around)
            nearest = self.node_indices(blocks[:, None] * BLOCK + inner)
            parts.append(torch.where(index < 0, nearest, index).int())
        return torch.cat(parts)

    def with_halo(self, values: Float[Tensor, " N"]) -> Float[Tensor, "B 6 6 6"]:
        """The values of each block and of its halo."""
        around = values.index_select(0, self.halo.view(-1))
        return around.view(-1, *(BLOCK + 2,) * 3)

    def differences(
        self, values: Float[Tensor, " N"]
    ) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
        """Differences from the previous and to the next neighbour, along each axis; 0 where that
        is inactive."""
        both = self._around(values, _differences(self.device)).view(-1, 2, 3)
        return both[:, 0], both[:, 1]

    def gradient(self, values: Float[Tensor, " N"]) -> Float[Tensor, "N 3"]:
        """Differences over two cells; over one where a neighbour is inactive."""
        previous, following = self.differences(values)
        return (previous + following) / self._spans

    @cached_property
    def _spans(self) -> Float[Tensor, "N 3"]:
        """Lengths over which `gradient` takes differences."""
        index = self.halo.view(-1, *(BLOCK + 2,) * 3)
        cells = []
        for axis in (1, 2, 3):
            low, centre, high = (_shifted(index, axis, step) for step in (-1, 0, 1))
            cells.append((low != centre).float() + (high != centre))
        return torch.stack(cells, dim=-1).view(-1, 3).clamp(min=1) * self.spacing

    def laplacian(self, values: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """The graph Laplacian: sum over the active neighbours of value - neighbour's value."""
        return self._around(values, _laplacian(self.device)).view(-1)

    def _around(self, values: Tensor, stencil: Float[Tensor, "216 k"]) -> Float[Tensor, "B k"]:
        """Weighted sums of the values of each block and of its halo."""
        return self.with_halo(values).view(-1, (BLOCK + 2) ** 3) @ stencil.to(values)

    @cached_property
    def coarser(self) -> "BlockGrid":
        """The grid of half the cells that has all nodes between which this one's lie."""
        side = self.cells // 2 // BLOCK + 1
        active = torch.zeros(side, side, side, dtype=torch.bool, device=self.device)
        for corner in _triples(_CUBE, self.device):
            reached = (self.blocks + corner) * (BLOCK // 2)
            x, y, z = reached.div(BLOCK, rounding_mode="floor").unbind(-1)
            active[x, y, z] = True
        return BlockGrid(self.cells // 2, active)

    @cached_property
    def _parents(self) -> Int[Tensor, "B 27"]:
        """Indices, in the coarser grid, of the nodes that each block's nodes lie between."""
        offsets = _triples(_PARENTS, self.device)
        return self.coarser.node_indices(self.blocks[:, None] * (BLOCK // 2) + offsets)

    @cached_property
    def _interpolation(self) -> Float[Tensor, "64 27"]:
        """Trilinear weights of the parents."""
        line = torch.zeros(BLOCK, BLOCK // 2 + 1, device=self.device)
        for node in range(BLOCK):
            line[node, node // 2] += 0.5
            line[node, (node + 1) // 2] += 0.5
        return torch.einsum("ax,by,cz->abcxyz", line, line, line).reshape(BLOCK**3, -1)

    def prolong(self, coarse: Float[Tensor, " M"]) -> Float[Tensor, " N"]:
        """A function on the coarser grid, interpolated at this grid's nodes."""
        return (coarse[self._parents] @ self._interpolation.T).view(-1)

    def restrict(self, values: Float[Tensor, " N"]) -> Float[Tensor, " M"]:
        """The transpose of `prolong`."""
        shares = values.view(-1, BLOCK**3) @ self._interpolation
        coarse = values.new_zeros(len(self.coarser))
        return coarse.index_add_(0, self._parents.view(-1), shares.view(-1))


def trilinear(fraction: Float[Tensor, "N 3"]) -> Float[Tensor, "N 8"]:
    """Weights of a cell's corners at a fraction of it, in the order of `cell_corners`."""
    x, y, z = torch.stack([1 - fraction, fraction], dim=-1).unbind(1)
    return (x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]).reshape(-1, 8)


def trilinear_gradient(fraction: Float[Tensor, "N 3"], spacing: float) -> Float[Tensor, "N 3 8"]:
    """The derivatives of the weights with respect to the position."""
    x, y, z = torch.stack([1 - fraction, fraction], dim=-1).unbind(1)
    d = torch.tensor([-1.0, 1.0], device=fraction.device, dtype=fraction.dtype) / spacing
    d = d.expand_as(x)
    lines = ((d, y, z), (x, d, z), (x, y, d))
    return torch.stack(
        [
            (a[:, :, None, None] * b[:, None, :, None] * c[:, None, None, :]).reshape(-1, 8)
            for a, b, c in lines
        ],
        dim=1,
    )


def _ravel(index: Int[Tensor, "*n 3"], side: int) -> Int[Tensor, "*n"]:
    return (index[..., 0] * side + index[..., 1]) * side + index[..., 2]


def _combine(pair: Int[Tensor, "N 3 2"], side: int) -> Int[Tensor, "N 8"]:
    """Linear indices of the 8 combinations of two indices along each axis."""
    x, y, z = pair.unbind(1)
    xy = (x[:, :, None] * side + y[:, None, :]) * side
    return (xy[..., None] + z[:, None, None, :]).view(-1, 8)


@cache
def _triples(along: range, device: torch.device) -> Int[Tensor, "n 3"]:
    """All (i, j, k) with indices of a range; cached, since making them waits for a GPU."""
    return torch.tensor(list(product(along, repeat=3)), device=device)


@cache
def _laplacian(device: torch.device) -> Float[Tensor, "216 64"]:
    neighbours = sum(_stencil(axis, step) for axis in range(3) for step in (-1, 1))
    return (6 * _stencil(0, 0) - neighbours).to(device)


@cache
def _differences(device: torch.device) -> Float[Tensor, "216 384"]:
    """Stencil of each node of a block: from the previous neighbours, then to the next ones."""
    steps = [(axis, step) for step in (-1, 1) for axis in range(3)]
    stencils = [step * (_stencil(axis, step) - _stencil(0, 0)) for axis, step in steps]
    return torch.stack(stencils, dim=-1).flatten(1).to(device)


def _stencil(axis: int, step: int) -> Float[Tensor, "216 64"]:
    """1 where a node of a block, shifted by a step along an axis, is one of block and halo."""
    nodes, halo = (_triples(along, torch.device("cpu")) for along in (_NODES, _HALO))
    shifted = nodes + step * torch.eye(3, dtype=torch.long)[axis]
    return (halo[:, None] == shifted).all(-1).float()


def _shifted(around: Tensor, axis: int, step: int) -> Tensor:
    """The 4^3 nodes of each block, shifted by a step along an axis, from values with a halo."""
    starts = [1, 1, 1]
    starts[axis - 1] += step
    for dimension, start in enumerate(starts, 1):
        around = around.narrow(dimension, start, BLOCK)
    return around
