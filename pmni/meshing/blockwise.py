"""Libraries that mesh dense grids, applied to a sparse grid block by block."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int

from pmni.meshing.sparse_grid import SparseGrid
from pmni.meshing.triangles import Triangles

BLOCK = 32
"""Cells along a side of the dense blocks."""
EDGE_TOLERANCE = 1e-5
"""Largest distance of a vertex from its grid edge, in cells."""


@runtime_checkable
class DenseExtractor(Protocol):
    """Extracts the zero level of values on a dense grid that cross zero somewhere."""

    def __call__(
        self, values: Float[np.ndarray, "I J K"]
    ) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, "F 3"]]:
        """Vertices in grid units, and faces that all look to one side."""
        ...


class BlockwiseExtractor:
    """An `Extractor` that meshes dense blocks one by one and welds their meshes together."""

    def __init__(self, extract: DenseExtractor) -> None:
        self.extract = extract
        self.flip = _is_inside_out(extract)

    def __call__(self, grid: SparseGrid) -> Triangles:
        """The zero level; see `Extractor`."""
        vertices, faces, count = [], [], 0
        for origin, values in grid.blocks(BLOCK):
            block_vertices, block_faces = self.extract(values)
            vertices.append(block_vertices + origin)
            faces.append((block_faces[:, ::-1] if self.flip else block_faces) + count)
            count += len(block_vertices)
        return _weld(np.concatenate(vertices), np.concatenate(faces), grid.resolution)


def _is_inside_out(extract: DenseExtractor) -> bool:
    """Whether a library turns its faces to the negative side, seen on a small sphere."""
    x = np.mgrid[-2:3, -2:3, -2:3].astype(np.float32)
    vertices, faces = extract(np.sqrt((x**2).sum(0)) - np.float32(1.4))
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    volume = np.einsum("ij,ij->", a - vertices.mean(0), np.cross(b - a, c - a))
    return bool(volume < 0)


def _weld(
    vertices: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "F 3"], resolution: int
) -> Triangles:
    """Join the vertices that lie on the same grid edge; grid units to [-1, 1]^3.

    Vertices on no edge (the centres that some triangulations add) belong to one block alone.
    """
    nearest = np.rint(vertices).astype(np.int64)
    off = np.abs(vertices - nearest)
    axis = off.argmax(1)
    on_no_edge = np.sort(off, axis=1)[:, 1] > EDGE_TOLERANCE
    base = nearest.copy()
    rows = np.arange(len(vertices))
    base[rows, axis] = np.floor(vertices[rows, axis])
    side = resolution + 1
    edge = ((base[:, 0] * side + base[:, 1]) * side + base[:, 2]) * 3 + axis
    edge[on_no_edge] = -1 - rows[on_no_edge]
    _, first, index = np.unique(edge, return_index=True, return_inverse=True)
    welded = index[faces]
    a, b, c = welded.T
    welded = welded[(a != b) & (b != c) & (c != a)]
    positions = vertices[first].astype(np.float64) * (2 / resolution) - 1
    return Triangles(torch.from_numpy(positions), torch.from_numpy(welded.astype(np.int32)))
