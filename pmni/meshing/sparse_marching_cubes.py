"""Marching cubes on the cells of a sparse grid, in PyTorch, on any device.

The project has its own because those of the libraries take dense grids and run on the CPU: this one
visits the crossed cells only, on the device of the values, and its meshes are closed and manifold
whatever the values are.
"""

from functools import cache

import torch
from jaxtyping import Float64, Int32
from torch import Tensor

from pmni.meshing.case_table import EDGE_AXIS, EDGES, case_table
from pmni.meshing.extractor import Extractor
from pmni.meshing.sparse_grid import SparseGrid
from pmni.meshing.triangles import Triangles

CELLS = {"cpu": 1 << 12, "cuda": 1 << 20}
"""Number of cells that are cut into triangles at once, by device."""


def make_extractor() -> Extractor:
    """The extractor, as `EXTRACTORS` registers it."""
    return marching_cubes


def marching_cubes(grid: SparseGrid) -> Triangles:
    """The zero level: closed except at the border of the box, and manifold.

    Vertices in the order of the nodes before them, faces in the order of the cells.
    """
    number, vertices = _vertices(grid)
    parts = grid.cells.split(CELLS[grid.cells.device.type], dim=1)
    faces = [_faces(grid, cells.contiguous(), number) for cells in parts]
    return Triangles(vertices * (2 / grid.resolution) - 1, torch.cat(faces))


def _vertices(grid: SparseGrid) -> tuple[Int32[Tensor, " M"], Float64[Tensor, "V 3"]]:
    """One vertex on each edge whose ends differ in sign, by linear interpolation, in grid units;
    and its number at 3 node + axis, the edge's lower node and direction."""
    inside = grid.values < 0
    upper = torch.full((3 * len(inside),), -1, dtype=torch.int32, device=inside.device)
    for (a, b), along in zip(EDGES, EDGE_AXIS, strict=True):
        low, high = grid.cells[a], grid.cells[b]
        crossed = inside.index_select(0, low) != inside.index_select(0, high)
        # cells that share an edge write the same
        upper.scatter_(0, 3 * low.long() + along, torch.where(crossed, high, -1))
    edges = torch.nonzero(upper >= 0)[:, 0]
    low, axis = edges // 3, edges % 3
    before = grid.values.index_select(0, low).double()
    behind = grid.values.index_select(0, upper.index_select(0, edges)).double()
    vertices = grid.nodes.index_select(1, low).T.contiguous().double()
    vertices.scatter_add_(1, axis[:, None], (before / (before - behind))[:, None])
    number = upper
    number[edges] = torch.arange(len(edges), dtype=torch.int32, device=edges.device)
    return number, vertices


def _faces(
    grid: SparseGrid, cells: Int32[Tensor, "8 C"], number: Int32[Tensor, " M"]
) -> Int32[Tensor, "F 3"]:
    """The triangles in the given cells of the grid."""
    counts, edges, lower, axis = _tables(cells.device)
    case = torch.zeros(cells.shape[1], dtype=torch.int32, device=cells.device)
    for corner, nodes in enumerate(cells):
        case |= (grid.values.index_select(0, nodes) < 0).int() << corner
    count = counts.index_select(0, case)
    cell = torch.repeat_interleave(count)
    first = count.cumsum(0) - count
    rank = torch.arange(len(cell), device=cells.device) - first.index_select(0, cell)
    place = case.index_select(0, cell) * edges.shape[2] + rank
    faces = []
    for corner in range(3):
        edge = edges[corner].view(-1).index_select(0, place)
        node = cells.view(-1).index_select(0, lower.index_select(0, edge) * cells.shape[1] + cell)
        faces.append(number.index_select(0, 3 * node + axis.index_select(0, edge)))
    return torch.stack(faces, dim=1)


@cache
def _tables(
    device: torch.device,
) -> tuple[
    Int32[Tensor, "256"], Int32[Tensor, "3 256 most"], Int32[Tensor, "12"], Int32[Tensor, "12"]
]:
    """Number of triangles of each case, edges of their corners; lower corner and axis of each
    edge."""
    counts, table = (torch.from_numpy(part).int() for part in case_table())
    lower = torch.tensor([a for a, _ in EDGES], dtype=torch.int32)
    axis = torch.tensor(EDGE_AXIS, dtype=torch.int32)
    edges = table.permute(2, 0, 1).contiguous()
    return counts.to(device), edges.to(device), lower.to(device), axis.to(device)
