"""Settings of `register`."""

from typing import Literal

from pydantic import Field, field_validator

from pmni.config.base import Settings


class RegisterSettings(Settings):
    """Where the cameras start."""

    method: Literal["reference", "noisy", "ring", "free"] = "ring"
    """The reference poses, the reference poses with noise, an ideal turntable circle, or poses
    found from the normal maps and masks alone."""

    rotation_noise: float = Field(0.0, ge=0)
    """`noisy`: standard deviation of the rotation about the object, degrees for each axis."""

    translation_noise: float = Field(0.0, ge=0)
    """`noisy`: standard deviation of the camera centre, fraction of the camera distance."""

    elevation: float = Field(25.0, gt=-90, lt=90)
    """`ring`: elevation of the cameras, degrees."""

    radius: float | None = Field(None, gt=0)
    """`ring`: distance from the object, normalised units; None takes it from the masks' size."""

    direction: Literal["counterclockwise", "clockwise"] = "counterclockwise"
    """`ring`: how the cameras go round the object, seen from above."""

    view_error: tuple[float, float] = (0.0, 0.0)
    """`ring`: each view is turned by an angle in this range (degrees), in tilt and azimuth."""

    distance_error: float = Field(0.0, ge=0)
    """`ring`: standard deviation of an error of each view's distance, fraction."""

    turntable: bool | None = None
    """`free`: whether the views are equal steps of a full turn, in any order; None: find out."""

    ordered: bool = False
    """`free`: each view is a neighbour of those before and after it, and the last of the first."""

    seed: int = Field(0, ge=0)
    """Seed of the errors, and of the search of `free`."""

    @field_validator("view_error")
    @classmethod
    def _is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1] < 90:
            raise ValueError("must be [lowest, highest] in degrees, from 0 to below 90")
        return value
