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
    """Values at the corners of the crossed cells; node (i, j, k) lies at
    -1 + 2 (i, j, k) / resolution."""

    resolution: int
    nodes: Int32[Tensor, "3 N"]
    """Indices (i, j, k) of all corners of the cells."""
    values: Float32[Tensor, " N"]
    """Values at the nodes."""
    cells: Int32[Tensor, "8 C"]
    """Numbers of the nodes at the corners of all cells whose corners differ in sign; x slowest, z
    fastest."""
    evaluations: int
    """Number of values that were computed to find the cells."""

    def without_zeros(self) -> "SparseGrid":
        """The grid with values nearer to zero than about 1e-4 cells moved to that distance.

        Signs stay. No vertex then lies on a node, so that no face is degenerate and each vertex
        lies on one edge.
        """
        minimum = 1e-4 * self.values.abs().mean()
        moved = torch.where(self.values < 0, -minimum, minimum)
        return replace(self, values=torch.where(self.values.abs() < minimum, moved, self.values))

    def blocks(
        self, size: int
    ) -> Iterator[tuple[Int[np.ndarray, "3"], Float32[np.ndarray, "I J K"]]]:
        """Origin and node values of dense blocks, `size` cells a side, that hold all the cells.

        Nodes of no cell take the value of a node that they are connected to without crossing the
        surface: marching cubes needs their sign only.
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
