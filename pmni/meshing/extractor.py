"""The interface of the mesh extractors; `EXTRACTORS` registers them."""

from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from pmni.errors import MissingBackendError
from pmni.meshing.sparse_grid import SparseGrid
from pmni.meshing.triangles import Triangles


@runtime_checkable
class Extractor(Protocol):
    """Extracts the zero level of the values on a sparse grid as triangles."""

    def __call__(self, grid: SparseGrid) -> Triangles:
        """Triangles whose vertices lie on the grid's edges, each once, by linear interpolation.

        Faces are counter-clockwise seen from where the values are positive. No value is zero.
        """
        ...


def import_library(module: str, package: str, extractor: str) -> Any:
    """A module that an extractor needs.

    Raises MissingBackendError, which says what to install; there is no silent fallback.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingBackendError(
            f"mesh extractor '{extractor}' cannot be imported ({error}); pip install {package}, "
            "or choose another `mesh.extractor`"
        ) from None
