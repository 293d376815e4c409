"""Settings of `report`, and the description of the run that it reports on."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from pmni.config.base import Settings
from pmni.config.extensions import METHODS


class ReportSettings(Settings):
    """How much the page holds: the larger, the finer to look at and the slower to open."""

    tile: int = Field(288, ge=32, le=2048)
    """Longest side of an image, pixels."""

    image_quality: int = Field(80, ge=1, le=100)
    """WebP quality of the images."""

    faces: int = Field(40_000, ge=100)
    """Most triangles of a result's surface shown in 3D, and of the ground truth."""

    faces_early: int = Field(15_000, ge=100)
    """Most triangles of a surface at another iteration."""

    thumbnail: int = Field(96, ge=8, le=1024)
    """Side of the views' images in the 3D cameras, pixels."""

    log_lines: int = Field(15, ge=1)
    """Lines quoted from the log of a stage that failed."""


class ReportedObject(Settings):
    """An object of the run."""

    name: str
    """Name in the table of objects."""

    dataset: str
    """Data set of the object."""

    normals: str
    """Normal set of the experiments that name none."""


class ReportedExperiment(Settings):
    """An experiment of the run."""

    deprecated_values: ClassVar[Mapping[str, Mapping[Any, Any]]] = {
        "registration_method": {"ring": "turntable", "free": "from_scratch"}
    }

    name: str
    """Name of the experiment's file."""

    summary: str = ""
    """Description in one line."""

    registration_method: str
    """Method of the initial poses; `reference` and `noisy` start from the reference poses."""

    normals: str | None = None
    """Normal set; None takes the object's."""

    refined: bool = False
    """Whether poses and a grid surface are refined; the refined surface is iteration 0."""

    trained: bool = True
    """Whether a network is trained."""

    steps: tuple[int, ...] = Field(min_length=1)
    """Iterations whose surface is kept, ascending."""

    candidates: tuple[int, ...] = ()
    """Iterations of which one is the result; empty means the last alone."""

    @field_validator("registration_method")
    @classmethod
    def _is_registered(cls, value: str) -> str:
        return METHODS.check(value)

    @model_validator(mode="after")
    def _candidates_are_steps(self) -> "ReportedExperiment":
        unknown = [step for step in self.candidates if step not in self.steps]
        if unknown:
            raise ValueError(f"candidates: {unknown[0]} is not one of the steps")
        return self


class ReportedRun(Settings):
    """What was asked for: the report marks whatever is missing from it."""

    objects: tuple[ReportedObject, ...] = Field(min_length=1)
    """All objects."""

    experiments: tuple[ReportedExperiment, ...] = Field(min_length=1)
    """All experiments; each is run on every object."""

    logs: str = "results/logs"
    """The folder with a folder of logs for each stage."""
