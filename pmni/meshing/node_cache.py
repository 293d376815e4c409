"""Values of a function at the nodes of a grid, computed and kept only where they are needed."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from pmni.errors import DivergenceError

TILE = 8
"""Nodes along a side of a tile; 8 = 1 << 3, 8^3 = 1 << 9."""
POINTS = {"cpu": 1 << 14, "cuda": 1 << 18}
"""Number of points that are evaluated at once, by device: they fit a CPU's cache, or fill a GPU."""

_EVEN = 0o111
"""Low bits of the three node indices in a position: all zero for nodes of the coarser grid."""

Evaluate = Callable[[Tensor], Tensor]
"""A function of points (N, 3) that returns values (N,)."""


class NodeCache:
    """Values at every `stride`-th node of the finest grid, stored in tiles of 8 x 8 x 8 nodes.

    Node (i, j, k) lies at -1 + 2 stride (i, j, k) / resolution; nodes beyond the box have the
    values at its border. Nodes are visited in cell blocks of 2 x 2 x 2 cells, each given by its
    lowest node, whose indices are even. Values that the `coarser` cache holds are not computed
    again.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        resolution: int,
        stride: int,
        device: torch.device,
        coarser: "NodeCache | None" = None,
    ) -> None:
        self.evaluate, self.resolution, self.stride = evaluate, resolution, stride
        self.device, self.coarser = device, coarser
        self.evaluations: int = 0 if coarser is None else coarser.evaluations
        """Number of values that were computed, those of coarser caches included."""
        self.side = -(-resolution // (2 * stride)) * 2 // TILE + 1
        """Tiles along a side of the box."""
        self.slots = torch.zeros(self.side**3, dtype=torch.int32, device=device)
        """Slot of each tile's values; slot 0 stands for tiles without storage."""
        self.lowest = torch.zeros(3, 1, dtype=torch.int32, device=device)
        """The lowest node of the tile in each slot."""
        self.values = torch.full((TILE**3,), torch.nan, device=device)
        self.visited = torch.zeros(TILE**3, dtype=torch.bool, device=device)
        """Whether the cell block with this node at its centre was visited."""

    def all_blocks(self) -> Int32[Tensor, "3 M"]:
        """The cell blocks that fill the box."""
        count = -(-self.resolution // self.stride)
        line = torch.arange(0, count, 2, dtype=torch.int32, device=self.device)
        return torch.cartesian_prod(line, line, line).T.contiguous()

    def chunks(self, blocks: Int32[Tensor, "3 M"]) -> Iterator[Int32[Tensor, "3 m"]]:
        """The blocks in chunks; each block has 27 nodes."""
        yield from blocks.split(POINTS[self.device.type] // 4, dim=1)

    def inside_box(self, blocks: Int32[Tensor, "3 M"]) -> Int32[Tensor, "3 N"]:
        """The blocks that are not wholly outside the box."""
        inside = (blocks.amin(0) >= 0) & (blocks.amax(0) * self.stride < self.resolution)
        return compress(blocks, inside)

    def unvisited(self, blocks: Int32[Tensor, "3 M"]) -> Int32[Tensor, "3 N"]:
        """The blocks that were not visited yet."""
        return compress(blocks, ~self.visited.index_select(0, self._centre_positions(blocks)))

    def centre_values(self, blocks: Int32[Tensor, "3 M"]) -> Float32[Tensor, " M"]:
        """Values at the centres of blocks."""
        self._reserve(blocks)
        positions = torch.cat([self._centre_positions(chunk) for chunk in self.chunks(blocks)])
        self._fill_in(compress(positions, self.values.index_select(0, positions).isnan()))
        return self.values.index_select(0, positions)

    def visit(self, blocks: Int32[Tensor, "3 M"]) -> None:
        """Evaluate the function at all nodes of blocks, and mark them as visited.

        Raises DivergenceError for values that are not finite.
        """
        self._reserve(blocks)
        needed = torch.zeros_like(self.visited)
        for chunk in self.chunks(blocks):
            positions = self.positions(chunk)
            needed.scatter_(0, positions.view(-1).long(), True)
            self.visited.scatter_(0, positions[13].long(), True)
        self._fill_in(torch.nonzero(needed & self.values.isnan())[:, 0].int())

    def positions(self, blocks: Int32[Tensor, "3 M"]) -> Int32[Tensor, "27 M"]:
        """Positions of the blocks' nodes in `values`; z fastest."""
        steps = torch.arange(3, dtype=torch.int32, device=self.device)
        return self._positions(blocks[:, None] + steps[:, None]).flatten(0, 2)

    def nodes(self, positions: Int32[Tensor, " N"]) -> Int32[Tensor, "3 N"]:
        """Indices (i, j, k) of the nodes at positions in `values`."""
        slot = positions >> 9
        return torch.stack(
            [
                lowest.index_select(0, slot) + (positions >> shift & 7)
                for lowest, shift in zip(self.lowest, (6, 3, 0), strict=True)
            ]
        )

    def _centre_positions(self, blocks: Int32[Tensor, "3 M"]) -> Int32[Tensor, " M"]:
        return self._positions(blocks[:, None] + 1).view(-1)

    def _positions(self, nodes: Int32[Tensor, "3 k M"]) -> Int32[Tensor, "k k k M"]:
        """Positions in `values` for all combinations of k indices along each axis."""
        tile = _linear_indices(nodes >> 3, self.side)
        slot = self.slots.index_select(0, tile.view(-1)).view(tile.shape)
        return (slot << 9) + _linear_indices(nodes & 7, TILE)

    def _reserve(self, blocks: Int32[Tensor, "3 M"]) -> None:
        """Allocate storage for the nodes of blocks."""
        needed = torch.zeros_like(self.slots, dtype=torch.bool)
        for chunk in self.chunks(blocks):
            ends = torch.stack([chunk, chunk + 2], dim=1) >> 3
            needed.scatter_(0, _linear_indices(ends, self.side).view(-1).long(), True)
        new = torch.nonzero(needed & (self.slots == 0))[:, 0]
        if len(new) == 0:
            return
        count = self.lowest.shape[1]
        self.slots[new] = torch.arange(
            count, count + len(new), dtype=torch.int32, device=self.device
        )
        tiles = torch.stack([new // self.side**2, new // self.side % self.side, new % self.side])
        self.lowest = torch.cat([self.lowest, TILE * tiles.int()], dim=1)
        size = len(new) * TILE**3
        self.values = torch.cat([self.values, self.values.new_full((size,), torch.nan)])
        self.visited = torch.cat([self.visited, self.visited.new_zeros(size)])

    @torch.no_grad()
    def _fill_in(self, positions: Int32[Tensor, " N"]) -> None:
        """Fill in the values at positions, from the coarser cache or by evaluating the function."""
        positions = self._missing(positions)
        if len(positions) == 0:
            return
        num_invalid = torch.zeros((), dtype=torch.int64, device=self.device)
        for chunk in positions.split(POINTS[self.device.type]):
            nodes = (self.nodes(chunk) * self.stride).clamp(max=self.resolution)
            points = (nodes.double() * (2 / self.resolution) - 1).float()
            values = self.evaluate(points.T.contiguous()).float()
            self.values.index_copy_(0, chunk.long(), values)
            num_invalid += (~values.isfinite()).sum()
        if num_invalid:
            raise DivergenceError(
                f"mesh: the surface model has {int(num_invalid)} values that are not finite "
                f"(of {len(positions)} on the grid)"
            )
        self.evaluations += len(positions)

    def _missing(self, positions: Int32[Tensor, " N"]) -> Int32[Tensor, " M"]:
        """The positions without values in the coarser cache; the others are filled in."""
        if self.coarser is None:
            return positions
        even = positions & _EVEN == 0
        shared = compress(positions, even)
        values = self.coarser.cached(self.nodes(shared) >> 1)
        self.values.index_copy_(0, shared.long(), values)
        return torch.cat([compress(positions, ~even), compress(shared, values.isnan())]).sort()[0]

    def cached(self, nodes: Int32[Tensor, "3 N"]) -> Float32[Tensor, " N"]:
        """Cached values at nodes, here or in coarser caches; NaN where there is none."""
        positions = self._positions(nodes[:, None]).view(-1)
        values = self.values.index_select(0, positions)
        if self.coarser is not None:
            unknown = torch.nonzero(values.isnan() & (positions & _EVEN == 0))[:, 0]
            values[unknown] = self.coarser.cached(nodes.index_select(1, unknown) >> 1)
        return values


def compress(values: Tensor, mask: Tensor) -> Tensor:
    """`values[..., mask]`, but faster."""
    return values.index_select(-1, torch.nonzero(mask)[:, 0])


def unique_nodes(nodes: Int32[Tensor, "3 M"]) -> Int32[Tensor, "3 N"]:
    """The different nodes, in lexicographic order."""
    x, y, z = nodes.long()
    key = (x << 42 | y << 21 | z).unique()
    return torch.stack([key >> shift & (1 << 21) - 1 for shift in (42, 21, 0)]).int()


def _linear_indices(indices: Int32[Tensor, "3 k M"], side: int) -> Int32[Tensor, "k k k M"]:
    """Linear indices for all combinations of k indices along each axis."""
    x, y, z = indices
    return ((x * side)[:, None] + y)[:, :, None] * side + z
