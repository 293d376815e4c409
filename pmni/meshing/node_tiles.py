"""Values of a function at the nodes of a grid, kept only where they were asked for."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from pmni.errors import DivergenceError

TILE = 8
"""Nodes along a side of a tile; 8 = 1 << 3, 8^3 = 1 << 9."""
POINTS = {"cpu": 1 << 14, "cuda": 1 << 18}
"""Points worked on at once: as many as a cache holds, or as keep a GPU busy."""

_EVEN = 0o111

Evaluate = Callable[[Tensor], Tensor]


class NodeTiles:
    """Values at nodes that lie `stride` of the finest nodes apart, in tiles of 8 x 8 x 8.

    Node (i, j, k) lies at -1 + 2 stride (i, j, k) / resolution; nodes beyond the box have the
    values at its border. Nodes are asked for by bricks of 2 x 2 x 2 cells, each named by its lowest
    node (which is even). A value that is known on the `coarser` nodes is not computed again.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        resolution: int,
        stride: int,
        device: torch.device,
        coarser: "NodeTiles | None" = None,
    ) -> None:
        self.evaluate, self.resolution, self.stride = evaluate, resolution, stride
        self.device, self.coarser = device, coarser
        self.evaluations: int = 0 if coarser is None else coarser.evaluations
        """Values that were computed, coarser ones included."""
        self.side = -(-resolution // (2 * stride)) * 2 // TILE + 1
        """Tiles along a side of the box."""
        self.slots = torch.zeros(self.side**3, dtype=torch.int32, device=device)
        """Where the values of a tile are; slot 0 holds none."""
        self.lowest = torch.zeros(3, 1, dtype=torch.int32, device=device)
        """The lowest node of the tile in each slot."""
        self.values = torch.full((TILE**3,), torch.nan, device=device)
        self.taken = torch.zeros(TILE**3, dtype=torch.bool, device=device)
        """Whether the brick with this node in the middle was added."""

    def all_bricks(self) -> Int32[Tensor, "3 M"]:
        """The bricks that fill the box."""
        count = -(-self.resolution // self.stride)
        line = torch.arange(0, count, 2, dtype=torch.int32, device=self.device)
        return torch.cartesian_prod(line, line, line).T.contiguous()

    def parts(self, bricks: Int32[Tensor, "3 M"]) -> Iterator[Int32[Tensor, "3 m"]]:
        """The bricks, a few at a time: each has 27 nodes."""
        yield from bricks.split(POINTS[self.device.type] // 4, dim=1)

    def within(self, bricks: Int32[Tensor, "3 M"]) -> Int32[Tensor, "3 N"]:
        """Those bricks that are not wholly outside the box."""
        inside = (bricks.amin(0) >= 0) & (bricks.amax(0) * self.stride < self.resolution)
        return compress(bricks, inside)

    def fresh(self, bricks: Int32[Tensor, "3 M"]) -> Int32[Tensor, "3 N"]:
        """Those bricks that were not added yet."""
        return compress(bricks, ~self.taken.index_select(0, self._middle_rows(bricks)))

    def middles(self, bricks: Int32[Tensor, "3 M"]) -> Float32[Tensor, " M"]:
        """Values in the middle of bricks."""
        self._reserve(bricks)
        rows = torch.cat([self._middle_rows(part) for part in self.parts(bricks)])
        self._find(compress(rows, self.values.index_select(0, rows).isnan()))
        return self.values.index_select(0, rows)

    def add(self, bricks: Int32[Tensor, "3 M"]) -> None:
        """Find the values at all nodes of these bricks.

        Raises DivergenceError for values that are not finite.
        """
        self._reserve(bricks)
        wanted = torch.zeros_like(self.taken)
        for part in self.parts(bricks):
            rows = self.rows(part)
            wanted.scatter_(0, rows.view(-1).long(), True)
            self.taken.scatter_(0, rows[13].long(), True)
        self._find(torch.nonzero(wanted & self.values.isnan())[:, 0].int())

    def rows(self, bricks: Int32[Tensor, "3 M"]) -> Int32[Tensor, "27 M"]:
        """Where in `values` the nodes of bricks are; z fastest."""
        steps = torch.arange(3, dtype=torch.int32, device=self.device)
        return self._rows(bricks[:, None] + steps[:, None]).flatten(0, 2)

    def nodes(self, rows: Int32[Tensor, " N"]) -> Int32[Tensor, "3 N"]:
        """The nodes whose values are at these rows."""
        slot = rows >> 9
        return torch.stack(
            [
                lowest.index_select(0, slot) + (rows >> shift & 7)
                for lowest, shift in zip(self.lowest, (6, 3, 0), strict=True)
            ]
        )

    def _middle_rows(self, bricks: Int32[Tensor, "3 M"]) -> Int32[Tensor, " M"]:
        return self._rows(bricks[:, None] + 1).view(-1)

    def _rows(self, nodes: Int32[Tensor, "3 k M"]) -> Int32[Tensor, "k k k M"]:
        """Rows for all combinations of k indices along each axis."""
        tile = _combined(nodes >> 3, self.side)
        slot = self.slots.index_select(0, tile.view(-1)).view(tile.shape)
        return (slot << 9) + _combined(nodes & 7, TILE)

    def _reserve(self, bricks: Int32[Tensor, "3 M"]) -> None:
        """Room for the nodes of bricks."""
        needed = torch.zeros_like(self.slots, dtype=torch.bool)
        for part in self.parts(bricks):
            ends = torch.stack([part, part + 2], dim=1) >> 3
            needed.scatter_(0, _combined(ends, self.side).view(-1).long(), True)
        new = torch.nonzero(needed & (self.slots == 0))[:, 0]
        if len(new) == 0:
            return
        count = self.lowest.shape[1]
        self.slots[new] = torch.arange(
            count, count + len(new), dtype=torch.int32, device=self.device
        )
        tiles = torch.stack([new // self.side**2, new // self.side % self.side, new % self.side])
        self.lowest = torch.cat([self.lowest, TILE * tiles.int()], dim=1)
        room = len(new) * TILE**3
        self.values = torch.cat([self.values, self.values.new_full((room,), torch.nan)])
        self.taken = torch.cat([self.taken, self.taken.new_zeros(room)])

    @torch.no_grad()
    def _find(self, rows: Int32[Tensor, " N"]) -> None:
        """Take the values at these rows from the coarser nodes, or compute them."""
        rows = self._without_known(rows)
        if len(rows) == 0:
            return
        bad = torch.zeros((), dtype=torch.int64, device=self.device)
        for part in rows.split(POINTS[self.device.type]):
            nodes = (self.nodes(part) * self.stride).clamp(max=self.resolution)
            points = (nodes.double() * (2 / self.resolution) - 1).float()
            found = self.evaluate(points.T.contiguous()).float()
            self.values.index_copy_(0, part.long(), found)
            bad += (~found.isfinite()).sum()
        if bad:
            raise DivergenceError(
                f"mesh: the surface model has {int(bad)} values that are not finite "
                f"(of {len(rows)} on the grid)"
            )
        self.evaluations += len(rows)

    def _without_known(self, rows: Int32[Tensor, " N"]) -> Int32[Tensor, " M"]:
        """These rows but for those whose values are known on the coarser nodes: they are set."""
        if self.coarser is None:
            return rows
        even = rows & _EVEN == 0
        shared = compress(rows, even)
        found = self.coarser.known(self.nodes(shared) >> 1)
        self.values.index_copy_(0, shared.long(), found)
        return torch.cat([compress(rows, ~even), compress(shared, found.isnan())]).sort()[0]

    def known(self, nodes: Int32[Tensor, "3 N"]) -> Float32[Tensor, " N"]:
        """Values at nodes, as far as they are known here or on coarser ones; else NaN."""
        rows = self._rows(nodes[:, None]).view(-1)
        values = self.values.index_select(0, rows)
        if self.coarser is not None:
            unknown = torch.nonzero(values.isnan() & (rows & _EVEN == 0))[:, 0]
            values[unknown] = self.coarser.known(nodes.index_select(1, unknown) >> 1)
        return values


def compress(values: Tensor, chosen: Tensor) -> Tensor:
    """`values[..., chosen]`, only faster."""
    return values.index_select(-1, torch.nonzero(chosen)[:, 0])


def without_copies(nodes: Int32[Tensor, "3 M"]) -> Int32[Tensor, "3 N"]:
    """Each node once, in lexicographic order."""
    x, y, z = nodes.long()
    key = (x << 42 | y << 21 | z).unique()
    return torch.stack([key >> shift & (1 << 21) - 1 for shift in (42, 21, 0)]).int()


def _combined(indices: Int32[Tensor, "3 k M"], side: int) -> Int32[Tensor, "k k k M"]:
    """Linear indices for all combinations of k indices along each axis."""
    x, y, z = indices
    return ((x * side)[:, None] + y)[:, :, None] * side + z
