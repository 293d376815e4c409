"""The index of results: which of them exist, and what the logs say of those that do not."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pmni.config.extensions import METHODS
from pmni.config.reporting import ReportedExperiment, ReportedObject
from pmni.runtime.layout import CaptureFolder, IntegrationFolder, ObjectFolder, Results

T = TypeVar("T")


class Unavailable(Exception):
    """Raised for a missing or damaged file; the panel that needs the file shows the reason."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def load(path: Path, reader: Callable[[Path], T]) -> T:
    """`reader(path)`; raises Unavailable, which names the file, when that cannot be done."""
    if not path.exists():
        raise Unavailable(path, "missing")
    try:
        return reader(path)
    except Exception as error:  # readers of all kinds fail in all ways on a damaged file
        reason = str(error).replace(str(path), path.name).splitlines()[:1]
        raise Unavailable(
            path, f"damaged ({': '.join([type(error).__name__, *reason])})"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises Unavailable."""
    return load(path, _json_object)


def _json_object(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


@dataclass(frozen=True)
class Run:
    """One object in one experiment, and its files."""

    results: Path
    entry: ReportedObject
    experiment: ReportedExperiment

    @property
    def key(self) -> str:
        """Identifier of the run in the page."""
        return f"{self.entry.name}/{self.experiment.name}"

    @property
    def normals(self) -> str:
        """Input normal set."""
        return self.experiment.normals or self.entry.normals

    @property
    def candidates(self) -> tuple[int, ...]:
        """The iterations of which one is the result."""
        return self.experiment.candidates or self.experiment.steps[-1:]

    @property
    def result(self) -> int:
        """The iteration that is the result: what the training selected, else the last.

        A selection that cannot be read counts as none here; what shows it says so.
        """
        if not self.experiment.trained:
            return self.candidates[-1]
        try:
            return read_selection(self).iteration
        except Unavailable:
            return self.candidates[-1]

    @property
    def capture(self) -> CaptureFolder:
        """The capture."""
        return Results(self.results).capture(self.entry.name, self.normals)

    @property
    def integration(self) -> IntegrationFolder:
        """The integrated ray distances."""
        return Results(self.results).integration(self.entry.name, self.normals)

    @property
    def folder(self) -> ObjectFolder:
        """Everything the experiment made of the object."""
        return Results(self.results).object(self.experiment.name, self.entry.name)

    def is_refined(self, iteration: int) -> bool:
        """Whether the iteration is the refined surface; the others come from the training."""
        return self.experiment.refined and iteration == 0

    def name_of(self, iteration: int) -> str:
        """Name of an iteration, such as `iteration 300`."""
        return "refined" if self.is_refined(iteration) else f"iteration {iteration}"

    def title_of(self, iteration: int) -> str:
        """Name of an iteration, marked as the result where there was a choice."""
        chosen = len(self.candidates) > 1 and iteration == self.result
        return self.name_of(iteration) + (" (result)" if chosen else "")

    def provenance(self, stage: str) -> list[Path]:
        """The provenance files of a stage, one for each time it runs for this object."""
        folder, steps = self.folder, self.experiment.steps
        stages: dict[str, list[Path]] = {
            "prepare": [self.capture.provenance],
            "integrate": [self.integration.provenance],
            "register": [folder.registration.provenance],
            "refine": [folder.refinement.provenance],
            "train": [folder.training.provenance],
            "mesh": [folder.mesh_provenance(step) for step in steps],
            "render": [folder.render_provenance(step) for step in self.candidates],
            "evaluate": [folder.metrics_provenance(step) for step in steps],
        }
        return stages[stage]

    def outputs(self, stage: str) -> list[Path]:
        """The files that a stage must have left behind when it has worked."""
        folder, steps = self.folder, self.experiment.steps
        trained = [folder.poses(step) for step in steps if not self.is_refined(step)]
        return {
            "prepare": [self.capture.archive],
            "integrate": [self.integration.ray_distances],
            "register": [folder.registration.poses],
            "refine": [folder.refinement.history, folder.refinement.poses],
            "train": [folder.training.history, folder.training.selection, *trained],
            "mesh": [folder.mesh(step) for step in steps],
            "render": [folder.renders(step) for step in self.candidates],
            "evaluate": [folder.metrics(step) for step in steps],
        }[stage]

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of the experiment, in order."""
        left_out = set() if self.experiment.refined else {"refine"}
        left_out |= set() if self.experiment.trained else {"train"}
        return tuple(stage for stage in STAGES if stage not in left_out)

    def stages_before(self, stage: str) -> tuple[str, ...]:
        """The stages of the experiment whose results a stage needs."""
        needed = STAGE_INPUTS[stage]
        method = METHODS[self.experiment.registration_method]
        if stage == "register" and method.needs_ray_distances:
            needed += ("integrate",)
        return tuple(name for name in needed if name in self.stages)


STAGES = ("prepare", "integrate", "register", "refine", "train", "mesh", "render", "evaluate")
"""All stages in order."""

STAGE_INPUTS: dict[str, tuple[str, ...]] = {
    "prepare": (),
    "integrate": ("prepare",),
    "register": ("prepare",),
    "refine": ("prepare", "register"),
    "train": ("prepare", "integrate", "register", "refine"),
    "mesh": ("refine", "train"),
    "render": ("refine", "train"),
    "evaluate": ("mesh",),
}
"""The stages whose results each stage reads."""


@dataclass(frozen=True)
class Selection:
    """The iteration that the training selected, and the errors that decided it."""

    iteration: int
    """The iteration that is the result."""
    heldout_error_deg: dict[int, float] = field(default_factory=dict)
    """The error on held-out normals by iteration, where iterations were compared."""
    gain_deg: float | None = None
    """Error of the refined surface minus that of the last iteration, degrees."""
    gain_standard_error_deg: float | None = None
    """Standard error of the gain, degrees."""


def read_selection(run: Run) -> Selection:
    """Which iteration the training of a run found to be the result. Raises Unavailable."""
    return load(run.folder.training.selection, lambda path: _selection(path, run.candidates))


def _selection(path: Path, candidates: tuple[int, ...]) -> Selection:
    content = _json_object(path)
    iteration = int(content["iteration"])
    if iteration not in candidates:
        raise ValueError(f"iteration {iteration} is none of {candidates}")
    errors = dict(content.get("heldout_error_deg") or {})

    def number(key: str) -> float | None:
        value = content.get(key)
        return None if value is None else float(value)

    return Selection(
        iteration,
        {int(step): float(value) for step, value in errors.items()},
        number("heldout_gain_deg"),
        number("heldout_gain_standard_error_deg"),
    )


def read_significance(run: Run) -> float | None:
    """Standard errors that a gain had to exceed, by the settings of the run's training.

    None where the provenance of the training does not say it.
    """
    try:
        settings = read_json(run.folder.training.provenance)["settings"]
        return float(settings["selection"]["significance"])
    except (Unavailable, KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True)
class StageState:
    """State of one stage of a run."""

    name: str
    state: str
    """`done`, `failed` (its files are not there) or `waiting` (for one that failed)."""
    seconds: float | None = None
    """Wall time, over all iterations; None when nothing says it."""
    cause: str = ""
    """The failed stage: itself, or the one that it waits for."""
    missing: tuple[Path, ...] = ()
    """The first of its files that are not there."""


def stage_states(run: Run) -> dict[str, StageState]:
    """Every stage in order. What was made before a stage failed anew does not count as done."""
    states: dict[str, StageState] = {}
    for stage in run.stages:
        causes = [states[name].cause for name in run.stages_before(stage) if states[name].cause]
        missing = tuple(path for path in run.outputs(stage) if not path.exists())
        if causes:
            states[stage] = StageState(stage, "waiting", cause=causes[0])
        elif missing:
            states[stage] = StageState(stage, "failed", cause=stage, missing=missing[:3])
        else:
            states[stage] = StageState(stage, "done", seconds_of(run, stage))
    return states


def available_surfaces(run: Run, states: dict[str, StageState]) -> tuple[int, ...]:
    """The iterations whose surface can be shown: also the refined one when a later stage failed."""
    if states["mesh"].state == "done":
        return run.experiment.steps
    refined = run.experiment.refined and states["refine"].state == "done"
    return (0,) if refined and run.folder.mesh(0).exists() else ()


def seconds_of(run: Run, stage: str) -> float | None:
    """The seconds that the provenance of a stage tells, over all iterations; None if none does."""
    seconds = []
    for path in run.provenance(stage):
        try:
            seconds.append(float(read_json(path)["seconds"]))
        except (Unavailable, KeyError, TypeError, ValueError):
            continue
    return sum(seconds) if seconds else None


def display_path(path: Path, results: Path) -> str:
    """The path from the results folder on; other paths as they are."""
    return str(path.relative_to(results.parent) if path.is_relative_to(results) else path)


@dataclass(frozen=True)
class LogTail:
    """The end of a log."""

    path: str
    lines: str


def log_tails(logs: Path, stage: str, run: Run, count: int) -> tuple[LogTail, ...]:
    """The last `count` lines of the logs of `stage` for this run, the newest log first.

    Logs of one iteration each lie in a folder of their own. A stage that has no log never ran, so
    that for `prepare` the logs of what brings the data set are looked for.
    """
    own = f"{run.experiment.name}/{run.entry.name}"
    patterns = {
        "prepare": [
            f"prepare/{run.entry.name}/{run.normals}",
            f"synthesize/{run.entry.dataset}/{run.entry.name}",
            f"fetch/{run.entry.dataset}",
        ],
        "integrate": [f"integrate/{run.entry.name}/{run.normals}"],
    }.get(stage, [f"{stage}/{own}"])
    files = [
        path
        for pattern in patterns
        for path in [*logs.glob(f"{pattern}.log"), *logs.glob(f"{pattern}/*.log")]
    ]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    tails = []
    for path in files:
        text = path.read_bytes().decode("utf-8", errors="replace").rstrip()
        # a progress bar writes over its own line
        lines = [line.rpartition("\r")[2] for line in text.split("\n")]
        if text:
            tails.append(LogTail(display_path(path, run.results), "\n".join(lines[-count:])))
    return tuple(tails)
