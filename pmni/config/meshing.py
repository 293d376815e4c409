"""Settings of `mesh` and `render`."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from pmni.config.base import Settings
from pmni.config.extensions import EXTRACTORS


class SurfaceSamplingSettings(Settings):
    """How the grid cells that the surface crosses are found, from coarse to fine."""

    min_coarse_cells: int = Field(48, ge=1)
    """Fewest cells along a side of the coarsest grid; coarser grids could overlook small parts."""

    slope_margin: float = Field(1.5, ge=1)
    """How much steeper the function may be inside a cell than between its corners; larger values
    refine more cells."""


class MeshSettings(Settings):
    """How the surface is extracted."""

    extractor: str = "marching_cubes"
    """The extractor, by its name in `pmni.config.extensions.EXTRACTORS`. All give the same vertices
    on the grid's edges. `marching_cubes` is the project's own and runs on the GPU too; `pymcubes`
    and `skimage` are libraries, the latter resolves ambiguous cells; `open3d` has to be installed
    apart."""

    resolution: int = Field(512, ge=16, le=2048)
    """Grid cells along each side of [-1, 1]^3; a surface on a grid is meshed on its own."""

    keep: Literal["largest", "all"] = "largest"
    """Keep the largest connected component only, or all."""

    sampling: SurfaceSamplingSettings = SurfaceSamplingSettings()
    """How the grid cells that the surface crosses are found."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPU when there is one; `cuda` without a GPU is an error."""

    deprecated_names: ClassVar[dict[str, str]] = {"backend": "extractor"}
    deprecated_values: ClassVar[dict[str, dict[str, str]]] = {
        "extractor": {"torch": "marching_cubes"}
    }

    @field_validator("extractor")
    @classmethod
    def _check_extractor(cls, name: str) -> str:
        return EXTRACTORS.check(name)


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
