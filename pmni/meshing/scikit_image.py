"""Marching cubes of scikit-image, on the CPU, which also resolve ambiguous cells."""

import numpy as np
from jaxtyping import Float, Int

from pmni.meshing.blockwise import BlockwiseExtractor
from pmni.meshing.extractor import import_library


def make_extractor() -> BlockwiseExtractor:
    """The extractor. Raises MissingBackendError where scikit-image is not installed."""
    library = import_library("skimage.measure", "scikit-image", "skimage")

    def extract(
        values: Float[np.ndarray, "I J K"],
    ) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, "F 3"]]:
        vertices, faces, _, _ = library.marching_cubes(values, 0.0)
        return vertices.astype(np.float64), faces.astype(np.int64)

    return BlockwiseExtractor(extract)
