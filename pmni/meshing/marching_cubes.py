"""Marching cubes behind one interface; the backends differ in speed and triangulation only."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int

from pmni.errors import MissingBackendError
from pmni.meshing.sparse_grid import SparseGrid
from pmni.meshing.triangles import Triangles
from pmni.meshing.triangulation import triangulate

BLOCK = 32
"""Cells along a side of the blocks that the libraries work on."""


@runtime_checkable
class Mesher(Protocol):
    """Extracts the zero level of a function."""

    def __call__(self, grid: SparseGrid) -> Triangles:
        """Vertices by linear interpolation along the grid's edges, each once; faces are
        counter-clockwise seen from where the values are positive. No value of the grid is 0."""
        ...


@runtime_checkable
class DenseMesher(Protocol):
    """Extracts the zero level of values on a dense grid that cross zero somewhere."""

    def __call__(
        self, values: Float[np.ndarray, "I J K"]
    ) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, "F 3"]]:
        """Vertices in grid units, and faces; see Mesher."""
        ...


def load_mesher(backend: str) -> Mesher:
    """The mesher `torch` (the project's own), `pymcubes`, `skimage` or `open3d`.

    Raises MissingBackendError, which says what to install; never falls back to another one.
    """
    if backend == "torch":
        return triangulate
    package, module, wrap = _BACKENDS[backend]
    try:
        extract = wrap(import_module(module))
    except ImportError as error:
        raise MissingBackendError(
            f"mesh backend '{backend}' cannot be imported ({error}); pip install {package}, "
            "or choose another `mesh.backend`"
        ) from None
    return partial(_block_by_block, _outward(extract))


def _block_by_block(mesher: DenseMesher, grid: SparseGrid) -> Triangles:
    """A dense mesher on each block; the blocks' meshes are joined along their sides."""
    vertices, faces, count = [], [], 0
    for origin, values in grid.blocks(BLOCK):
        block_vertices, block_faces = mesher(values)
        vertices.append(block_vertices + origin)
        faces.append(block_faces + count)
        count += len(block_vertices)
    return _weld(np.concatenate(vertices), np.concatenate(faces), grid.resolution)


def _weld(
    vertices: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "F 3"], resolution: int
) -> Triangles:
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
    place = vertices[first].astype(np.float64) * (2 / resolution) - 1
    return Triangles(torch.from_numpy(place), torch.from_numpy(joined.astype(np.int32)))


def _pymcubes(module: Any) -> DenseMesher:
    def extract(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vertices, faces = module.marching_cubes(values, 0.0)
        return vertices, faces.astype(np.int64)

    return extract


def _skimage(module: Any) -> DenseMesher:
    def extract(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vertices, faces, _, _ = module.marching_cubes(values, 0.0)
        return vertices.astype(np.float64), faces.astype(np.int64)

    return extract


def _open3d(module: Any) -> DenseMesher:
    def extract(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        volume = module.core.Tensor(np.ascontiguousarray(values, np.float32))
        mesh = module.t.geometry.TriangleMesh.create_isosurfaces(volume, [0.0])
        # its axes are those of an image: the last index first
        vertices = mesh.vertex.positions.numpy()[:, ::-1].astype(np.float64)
        return vertices, mesh.triangle.indices.numpy().astype(np.int64)

    return extract


_BACKENDS: dict[str, tuple[str, str, Callable[[Any], DenseMesher]]] = {
    "pymcubes": ("PyMCubes", "mcubes", _pymcubes),
    "skimage": ("scikit-image", "skimage.measure", _skimage),
    "open3d": ("open3d", "open3d", _open3d),
}


def _outward(extract: DenseMesher) -> DenseMesher:
    """`extract` with its faces turned outward, whichever way the library has them."""
    x = np.mgrid[-2:3, -2:3, -2:3].astype(np.float32)
    vertices, faces = extract(np.sqrt((x**2).sum(0)) - np.float32(1.4))
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    centre = vertices.mean(0)
    if np.einsum("ij,ij->", a - centre, np.cross(b - centre, c - centre)) > 0:
        return extract

    def turned(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vertices, faces = extract(values)
        return vertices, faces[:, ::-1]

    return turned
