"""Settings of `report`, and the description of the run that it reports on."""

from pydantic import Field, model_validator

from pmni.config.base import Settings


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

    log_lines: int = Field(15, ge=1)
    """Lines quoted from the log of a stage that failed."""


class ReportedObject(Settings):
    """An object of the run."""

    name: str
    """Its name, as in the table of objects."""

    dataset: str
    """The data set it belongs to."""

    normals: str
    """Its own normal set."""


class ReportedExperiment(Settings):
    """An experiment of the run."""

    name: str
    """Its name, as its file is named."""

    summary: str = ""
    """What it is, in a line."""

    registration_method: str
    """Where its cameras start: `reference` and `noisy` know the true poses."""

    normals: str | None = None
    """Its normal set; None takes the object's own."""

    refined: bool = False
    """Whether poses and a grid surface are refined; that surface is iteration 0."""

    trained: bool = True
    """Whether a network is trained."""

    steps: tuple[int, ...] = Field(min_length=1)
    """Iterations whose surface is kept, ascending."""

    candidates: tuple[int, ...] = ()
    """Those of which one is the result; empty means the last alone."""

    @model_validator(mode="after")
    def _some_of_the_steps(self) -> "ReportedExperiment":
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
