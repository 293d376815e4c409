"""Settings of `export`."""

from pydantic import Field, field_validator

from pmni.config.base import Settings
from pmni.config.extensions import EXPORTERS


class ExportSettings(Settings):
    """Which files other software gets."""

    formats: tuple[str, ...] | None = None
    """Names of the formats (registered exporters); null writes all. Formats whose files another one
    refers to are added."""

    points: int = Field(20_000, ge=1)
    """Number of points that are sampled from the mesh."""

    seed: int = Field(0, ge=0)
    """Seed of the sampled points."""

    figure: bool = True
    """Draw the cameras around the object, in `cameras.png`."""

    collinearity: float = Field(0.05, ge=0, le=1)
    """Ratio of the second to the first extent (singular value) of the camera centres below which
    they count as collinear, so that the figure aligns the cameras' rotations instead."""

    @field_validator("formats")
    @classmethod
    def _registered(cls, formats: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in formats or ():
            EXPORTERS.check(name)
        return formats
