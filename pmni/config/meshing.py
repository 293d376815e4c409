"""Settings of `mesh` and `render`."""

from typing import Literal

from pydantic import Field

from pmni.config.base import Settings


class MeshSettings(Settings):
    """How the surface is extracted."""

    backend: Literal["pymcubes", "skimage", "open3d"] = "pymcubes"
    """The marching cubes implementation; `open3d` also offers its cleaning."""

    resolution: int = Field(512, ge=16, le=2048)
    """Grid cells along each side of [-1, 1]^3."""

    keep: Literal["largest", "all"] = "largest"
    """Keep the largest connected component only, or all."""


class RenderSettings(Settings):
    """How normals and depth are rendered from the surface."""

    chunk: int = Field(65536, ge=1)
    """Rays traced at once."""
