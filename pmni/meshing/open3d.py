"""Isosurfaces of Open3D, on the CPU."""

import numpy as np
from jaxtyping import Float, Int

from pmni.meshing.blockwise import BlockwiseExtractor
from pmni.meshing.extractor import import_library


def make_extractor() -> BlockwiseExtractor:
    """The extractor. Raises MissingBackendError where Open3D is not installed."""
    library = import_library("open3d", "open3d", "open3d")

    def extract(
        values: Float[np.ndarray, "I J K"],
    ) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, "F 3"]]:
        volume = library.core.Tensor(np.ascontiguousarray(values, np.float32))
        mesh = library.t.geometry.TriangleMesh.create_isosurfaces(volume, [0.0])
        # Open3D orders axes as an image does: the last index is x.
        vertices = mesh.vertex.positions.numpy()[:, ::-1].astype(np.float64)
        return vertices, mesh.triangle.indices.numpy().astype(np.int64)

    return BlockwiseExtractor(extract)
