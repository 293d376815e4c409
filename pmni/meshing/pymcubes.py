"""Marching cubes of PyMCubes, on the CPU."""

import numpy as np
from jaxtyping import Float, Int

from pmni.meshing.blockwise import BlockwiseExtractor
from pmni.meshing.extractor import import_library


def make_extractor() -> BlockwiseExtractor:
    """The extractor. Raises MissingBackendError where PyMCubes is not installed."""
    library = import_library("mcubes", "PyMCubes", "pymcubes")

    def extract(
        values: Float[np.ndarray, "I J K"],
    ) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, "F 3"]]:
        vertices, faces = library.marching_cubes(values, 0.0)
        return vertices, faces.astype(np.int64)

    return BlockwiseExtractor(extract)
