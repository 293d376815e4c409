"""Marching cubes behind one interface; the backends differ in speed and triangulation only."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from pmni.errors import MissingBackendError


@runtime_checkable
class Mesher(Protocol):
    """Extracts the zero level of values on a grid that cross zero somewhere."""

    def __call__(
        self, values: Float[np.ndarray, "I J K"]
    ) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, "F 3"]]:
        """Vertices in grid units, by linear interpolation along the grid's edges, and faces.

        Faces are counter-clockwise seen from where the values are positive.
        """
        ...


def load_mesher(backend: str) -> Mesher:
    """The mesher `pymcubes`, `skimage` or `open3d`.

    Raises MissingBackendError, which says what to install; never falls back to another one.
    """
    package, module, wrap = _BACKENDS[backend]
    try:
        extract = wrap(import_module(module))
    except ImportError as error:
        raise MissingBackendError(
            f"mesh backend '{backend}' cannot be imported ({error}); pip install {package}, "
            "or choose another `mesh.backend`"
        ) from None
    return _outward(extract)


def _pymcubes(module: Any) -> Mesher:
    def extract(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vertices, faces = module.marching_cubes(values, 0.0)
        return vertices, faces.astype(np.int64)

    return extract


def _skimage(module: Any) -> Mesher:
    def extract(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vertices, faces, _, _ = module.marching_cubes(values, 0.0)
        return vertices.astype(np.float64), faces.astype(np.int64)

    return extract


def _open3d(module: Any) -> Mesher:
    def extract(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        volume = module.core.Tensor(np.ascontiguousarray(values, np.float32))
        mesh = module.t.geometry.TriangleMesh.create_isosurfaces(volume, [0.0])
        # its axes are those of an image: the last index first
        vertices = mesh.vertex.positions.numpy()[:, ::-1].astype(np.float64)
        return vertices, mesh.triangle.indices.numpy().astype(np.int64)

    return extract


_BACKENDS: dict[str, tuple[str, str, Callable[[Any], Mesher]]] = {
    "pymcubes": ("PyMCubes", "mcubes", _pymcubes),
    "skimage": ("scikit-image", "skimage.measure", _skimage),
    "open3d": ("open3d", "open3d", _open3d),
}


def _outward(extract: Mesher) -> Mesher:
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
