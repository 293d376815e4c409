"""Settings of `mesh` and `render`."""

from typing import Literal

from pydantic import Field

from pmni.config.base import Settings


class MeshSettings(Settings):
    """How the surface is extracted."""

    backend: Literal["torch", "pymcubes", "skimage", "open3d"] = "torch"
    """The marching cubes implementation. All give the same vertices on the grid's edges. `torch`
    is the project's own and runs on the GPU too; `skimage` also resolves ambiguous cells; `open3d`
    has to be installed apart."""

    resolution: int = Field(512, ge=16, le=2048)
    """Grid cells along each side of [-1, 1]^3; a surface on a grid is meshed on its own."""

    keep: Literal["largest", "all"] = "largest"
    """Keep the largest connected component only, or all."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPU when there is one; `cuda` without a GPU is an error."""


class RenderSettings(Settings):
    """How normals and depth are rendered from the surface."""

    min_cells: int = Field(256, ge=64, multiple_of=16)
    """Fewest grid cells along a side on which a network is sampled before it is rendered; between
    this and `max_cells`, cells are about as large as pixels."""

    max_cells: int = Field(512, ge=64, multiple_of=16)
    """Most grid cells along a side on which a network is sampled before it is rendered."""

    chunk: int = Field(65536, ge=1)
    """Rays traced at once."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPU when there is one; `cuda` without a GPU is an error."""
