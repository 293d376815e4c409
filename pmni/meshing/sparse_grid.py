"""The cells of a fine grid that a surface crosses, and the values at their corners."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float32, Int, Int32
from torch import Tensor


@dataclass(frozen=True)
class SparseGrid:
    """Node (i, j, k) lies at -1 + 2 (i, j, k) / resolution."""

    resolution: int
    nodes: Int32[Tensor, "3 N"]
    """The nodes of the cells."""
    values: Float32[Tensor, " N"]
    """Their values."""
    cells: Int32[Tensor, "8 C"]
    """The corners of all cells whose corners differ in sign: which nodes; x slowest, z fastest."""
    evaluations: int
    """How many values were computed to find them."""

    def without_zeros(self) -> "SparseGrid":
        """Values nearer to zero than about 1e-4 cells moved there, their sign kept.

        No vertex then lies on a node, no face is degenerate, and each vertex's edge is plain.
        """
        least = 1e-4 * self.values.abs().mean()
        moved = torch.where(self.values < 0, -least, least)
        return replace(self, values=torch.where(self.values.abs() < least, moved, self.values))

    def blocks(
        self, size: int
    ) -> Iterator[tuple[Int[np.ndarray, "3"], Float32[np.ndarray, "I J K"]]]:
        """Dense blocks of `size` cells a side that hold all the cells: origin, values at nodes.

        Nodes of no cell take the value of one that they are connected to without crossing the
        surface: right in sign, which is all that marching cubes asks of them.
        """
        nodes, values = self.nodes.T.cpu().numpy().astype(np.int64), self.values.cpu().numpy()
        cells = self.cells.cpu().numpy()
        owner = nodes[cells[0]] // size
        order = np.lexsort(owner.T[::-1])
        starts = np.flatnonzero(np.any(np.diff(owner[order], axis=0, prepend=-1), axis=1))
        for members in np.split(order, starts[1:]):
            origin = owner[members[0]] * size
            corners = cells[:, members]
            block = np.full(np.minimum(size, self.resolution - origin) + 1, np.nan, np.float32)
            block[tuple((nodes[corners] - origin).T)] = values[corners].T
            yield origin, _fill(block)


def _fill(values: Float32[np.ndarray, "I J K"]) -> Float32[np.ndarray, "I J K"]:
    """NaN replaced by the nearest value before or else behind it, along the last axis with one."""
    for axis in (2, 1, 0):
        planes = np.moveaxis(values, axis, 0)
        for ordered in (planes, planes[::-1]):
            for before, plane in pairwise(ordered):
                np.copyto(plane, before, where=np.isnan(plane))
    return values
