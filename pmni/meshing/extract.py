"""From a signed distance function to one triangle mesh."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from pmni.errors import InputError
from pmni.io.meshes import Mesh
from pmni.meshing.geometry import largest_component, open_edges
from pmni.meshing.marching_cubes import Mesher
from pmni.meshing.sparse_grid import Evaluate, SparseGrid, sample

BLOCK = 32
"""Cells along a side of the blocks that marching cubes works on."""


@dataclass(frozen=True)
class Extraction:
    """A mesh in normalised units and how it came about."""

    mesh: Mesh
    evaluations: int
    """Values of the function that were computed."""
    components: int
    """Connected components before any were dropped."""
    box_edges: int
    """Edges along which the surface leaves the box; 0 if it lies inside."""


def extract(
    evaluate: Evaluate, resolution: int, mesher: Mesher, keep_all: bool, device: torch.device
) -> Extraction:
    """The zero level of `evaluate` ((N, 3) -> (N,), positive outside) in [-1, 1]^3.

    Raises InputError when there is no surface, DivergenceError for values that are not finite.
    """
    grid = sample(evaluate, resolution, device)
    if len(grid.bricks) == 0:
        raise InputError(
            "mesh: no surface: the model has the same sign everywhere in the box "
            "(training has diverged, or the resolution is too low for the object)"
        )
    mesh = triangulate(grid, mesher)
    kept, components = largest_component(mesh)
    mesh = mesh if keep_all else kept
    ends = mesh.vertices[open_edges(mesh)]
    box_edges = int(np.any(np.abs(ends) > 1 - 1e-6, axis=(1, 2)).sum())
    return Extraction(mesh, grid.evaluations, components, box_edges)


def triangulate(grid: SparseGrid, mesher: Mesher) -> Mesh:
    """Marching cubes block by block, the blocks' meshes joined along their sides."""
    grid = _without_zeros(grid)
    vertices, faces, count = [], [], 0
    for origin, values in grid.blocks(BLOCK):
        block_vertices, block_faces = mesher(values)
        vertices.append(block_vertices + origin)
        faces.append(block_faces + count)
        count += len(block_vertices)
    return _weld(np.concatenate(vertices), np.concatenate(faces), grid.resolution)


def _without_zeros(grid: SparseGrid) -> SparseGrid:
    """Values nearer to zero than about 1e-4 cells moved there, their sign kept.

    No vertex then lies on a grid corner, no face is degenerate, and each vertex's edge is plain.
    """
    least = np.float32(1e-4) * np.abs(grid.values).mean()
    small = np.abs(grid.values) < least
    moved = np.where(grid.values < 0, -least, least)
    return SparseGrid(
        grid.resolution, grid.bricks, np.where(small, moved, grid.values), grid.evaluations
    )


def _weld(
    vertices: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "F 3"], resolution: int
) -> Mesh:
    """Join vertices on the same grid edge; grid units to [-1, 1]^3.

    Vertices on no edge (the centres that some triangulations add) are one block's alone.
    """
    nearest = np.rint(vertices).astype(np.int64)
    off = np.abs(vertices - nearest)
    axis = off.argmax(1)
    inner = np.sort(off, axis=1)[:, 1] > 1e-5
    base = nearest.copy()
    rows = np.arange(len(vertices))
    base[rows, axis] = np.floor(vertices[rows, axis])
    side = resolution + 1
    key = ((base[:, 0] * side + base[:, 1]) * side + base[:, 2]) * 3 + axis
    key[inner] = -1 - rows[inner]
    _, first, index = np.unique(key, return_index=True, return_inverse=True)
    joined = index[faces]
    a, b, c = joined.T
    joined = joined[(a != b) & (b != c) & (c != a)]
    return Mesh(vertices[first] * (2 / resolution) - 1, joined.astype(np.int32))
