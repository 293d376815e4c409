"""A sparse regular grid: nodes in blocks of 4 x 4 x 4, of which only some are switched on."""

from collections.abc import Callable
from functools import cache, cached_property
from itertools import product

import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor
from torch.nn.functional import pad

from pmni.kernels.constants import BLOCK

AT_A_TIME = 2**12
"""Blocks that are worked on together where memory counts."""

# Indices along an axis.
_CUBE = range(2)  # of a cell's corners
_NODES = range(BLOCK)  # of a block's nodes
_HALO = range(-1, BLOCK + 1)  # of these and the nodes around them
_PARENTS = range(BLOCK // 2 + 1)  # of the coarser nodes that they lie between


class BlockGrid:
    """Nodes (i, j, k) at -1 + 2 (i, j, k) / cells, in the blocks that are switched on.

    Functions on the grid are tensors (N,), N = BLOCK^3 times the number of blocks: a row for each
    node, block by block. `cells` is a multiple of BLOCK; the last blocks reach beyond the box.
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
        # A border of blocks that are off saves a test at every look-up.
        self.block_numbers = pad(numbers, (1,) * 6, value=-1).view(-1)
        self._side = len(active) + 2

    @staticmethod
    def dense(cells: int, device: torch.device) -> "BlockGrid":
        """The grid with all blocks switched on."""
        side = cells // BLOCK + 1
        return BlockGrid(cells, torch.ones(side, side, side, dtype=torch.bool, device=device))

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.active.device

    def __len__(self) -> int:
        """The number of nodes."""
        return len(self.blocks) * BLOCK**3

    def nodes(self, blocks: Int[Tensor, "B 3"] | None = None) -> Int[Tensor, "N 3"]:
        """The indices (i, j, k) of the nodes; of some blocks, or of all."""
        inner = _triples(_NODES, self.device)
        chosen = self.blocks if blocks is None else blocks
        return (chosen[:, None] * BLOCK + inner).view(-1, 3)

    def positions(self, blocks: Int[Tensor, "B 3"] | None = None) -> Float[Tensor, "N 3"]:
        """Where the nodes lie; of some blocks, or of all."""
        return self.nodes(blocks) * self.spacing - 1

    def sampled(
        self, function: Callable[[Tensor], Tensor], blocks: Int[Tensor, "B 3"] | None = None
    ) -> Float[Tensor, " N"]:
        """A function of points at the nodes of some blocks, or of all."""
        chosen = self.blocks if blocks is None else blocks
        return torch.cat([function(self.positions(part)) for part in chosen.split(AT_A_TIME)])

    def node_indices(self, nodes: Int[Tensor, "*n 3"]) -> Int[Tensor, "*n"]:
        """The rows of nodes; -1 for those that are off."""
        block = (nodes.div(BLOCK, rounding_mode="floor") + 1).clamp(0, self._side - 1)
        inner = nodes % BLOCK
        return self._row(_ravel(block, self._side), _ravel(inner, BLOCK))

    def _row(self, block: Int[Tensor, "*n"], inner: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        number = self.block_numbers[block].long()
        return torch.where(number < 0, number, number * BLOCK**3 + inner)

    def coarser_nodes(self, stride: int) -> tuple[Int[Tensor, " M"], Bool[Tensor, "n n n"]]:
        """The nodes of the dense grid with cells `stride` times as large (a divisor of BLOCK) that
        are nodes of this one, and on: their rows here in the order of that grid, and where."""
        inner = _triples(range(0, BLOCK, stride), self.device)
        side = self.cells // stride + 1
        nodes = (self.blocks[:, None] * BLOCK + inner).view(-1, 3) // stride
        rows = torch.arange(len(self.blocks), device=self.device)[:, None] * BLOCK**3
        rows = (rows + _ravel(inner, BLOCK)).view(-1)
        within = (nodes < side).all(-1)
        place, order = _ravel(nodes[within], side).sort()
        on = torch.zeros(side**3, dtype=torch.bool, device=self.device)
        on[place] = True
        return rows[within][order], on.view(side, side, side)

    def cell_corners(
        self, x: Float[Tensor, "N 3"]
    ) -> tuple[Int[Tensor, "N 8"], Float[Tensor, "N 3"], Bool[Tensor, " N"]]:
        """The cell around each point: rows of its corners, the point's place in it, and whether
        all corners are on (rows are 0 where not)."""
        place = (x + 1) / self.spacing
        lowest = place.detach().floor().clamp(-BLOCK, self.cells + BLOCK)
        cell = lowest.long()
        pair = torch.stack([cell, cell + 1], dim=-1)  # N 3 2
        block = (pair.div(BLOCK, rounding_mode="floor") + 1).clamp(0, self._side - 1)
        rows = self._row(_combine(block, self._side), _combine(pair % BLOCK, BLOCK))
        inside = (rows >= 0).all(-1)
        return torch.where(inside[:, None], rows, 0), place - lowest, inside

    @cached_property
    def halo(self) -> Int32[Tensor, "B 216"]:
        """Rows of each block's nodes and those around it (6^3); nodes that are off are replaced by
        the block's nearest."""
        around = _triples(_HALO, self.device)
        inner = around.clamp(0, BLOCK - 1)
        parts = []
        for blocks in self.blocks.split(AT_A_TIME):
            rows = self.node_indices(blocks[:, None] * BLOCK + around)
            nearest = self.node_indices(blocks[:, None] * BLOCK + inner)
            parts.append(torch.where(rows < 0, nearest, rows).int())
        return torch.cat(parts)

    def with_halo(self, values: Float[Tensor, " N"]) -> Float[Tensor, "B 6 6 6"]:
        """The values of each block and around it."""
        around = values.index_select(0, self.halo.view(-1))
        return around.view(-1, *(BLOCK + 2,) * 3)

    def differences(
        self, values: Float[Tensor, " N"]
    ) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
        """From the neighbour before and to the one behind, along each axis; 0 where it is off."""
        found = self._around(values, _differences(self.device)).view(-1, 2, 3)
        return found[:, 0], found[:, 1]

    def gradient(self, values: Float[Tensor, " N"]) -> Float[Tensor, "N 3"]:
        """Differences over two cells; over one where a neighbour is off."""
        before, behind = self.differences(values)
        return (before + behind) / self._spans

    @cached_property
    def _spans(self) -> Float[Tensor, "N 3"]:
        """Over what lengths `gradient` takes differences."""
        apart = self.halo.view(-1, *(BLOCK + 2,) * 3)
        cells = []
        for axis in (1, 2, 3):
            low, here, high = (_shifted(apart, axis, step) for step in (-1, 0, 1))
            cells.append((low != here).float() + (high != here))
        return torch.stack(cells, dim=-1).view(-1, 3).clamp(min=1) * self.spacing

    def laplacian(self, values: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """The graph Laplacian: sum over the neighbours that are on of value - neighbour's."""
        return self._around(values, _laplacian(self.device)).view(-1)

    def _around(self, values: Tensor, stencil: Float[Tensor, "216 k"]) -> Float[Tensor, "B k"]:
        """Weighted sums of the values of each block and around it."""
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
        """Rows, in the coarser grid, of the nodes that each block's nodes lie between."""
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
        """A function on the coarser grid, interpolated at the nodes."""
        return (coarse[self._parents] @ self._interpolation.T).view(-1)

    def restrict(self, values: Float[Tensor, " N"]) -> Float[Tensor, " M"]:
        """The transpose of `prolong`."""
        shares = values.view(-1, BLOCK**3) @ self._interpolation
        coarse = values.new_zeros(len(self.coarser))
        return coarse.index_add_(0, self._parents.view(-1), shares.view(-1))


def trilinear(place: Float[Tensor, "N 3"]) -> Float[Tensor, "N 8"]:
    """Weights of a cell's corners at a place in it, in the order of `BlockGrid.corners`."""
    x, y, z = torch.stack([1 - place, place], dim=-1).unbind(1)
    return (x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]).reshape(-1, 8)


def trilinear_gradient(place: Float[Tensor, "N 3"], spacing: float) -> Float[Tensor, "N 3 8"]:
    """The derivatives of the weights with respect to the position."""
    x, y, z = torch.stack([1 - place, place], dim=-1).unbind(1)
    d = torch.tensor([-1.0, 1.0], device=place.device, dtype=place.dtype) / spacing
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
    """All (i, j, k) with indices of a range; kept, so that a GPU is not waited for each time."""
    return torch.tensor(list(product(along, repeat=3)), device=device)


@cache
def _laplacian(device: torch.device) -> Float[Tensor, "216 64"]:
    neighbours = sum(_stencil(axis, step) for axis in range(3) for step in (-1, 1))
    return (6 * _stencil(0, 0) - neighbours).to(device)


@cache
def _differences(device: torch.device) -> Float[Tensor, "216 384"]:
    """For each node of a block: from the neighbours before it, then to those behind it."""
    steps = [(axis, step) for step in (-1, 1) for axis in range(3)]
    stencils = [step * (_stencil(axis, step) - _stencil(0, 0)) for axis, step in steps]
    return torch.stack(stencils, dim=-1).flatten(1).to(device)


def _stencil(axis: int, step: int) -> Float[Tensor, "216 64"]:
    """1 where a node of a block, moved by a step along an axis, is one of those with its halo."""
    nodes, halo = (_triples(along, torch.device("cpu")) for along in (_NODES, _HALO))
    moved = nodes + step * torch.eye(3, dtype=torch.long)[axis]
    return (halo[:, None] == moved).all(-1).float()


def _shifted(around: Tensor, axis: int, step: int) -> Tensor:
    """The 4^3 nodes of each block, moved by a step along an axis; from values with an halo."""
    starts = [1, 1, 1]
    starts[axis - 1] += step
    for dimension, start in enumerate(starts, 1):
        around = around.narrow(dimension, start, BLOCK)
    return around
