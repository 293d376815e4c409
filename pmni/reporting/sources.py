"""Where the results lie, which of them are there, and what the logs say of those that are not."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pmni.config.reporting import ReportedExperiment, ReportedObject

T = TypeVar("T")


class Unavailable(Exception):
    """A file that a panel needs and that is missing or damaged. The panel says so."""

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


def stem(iteration: int) -> str:
    """How files of an iteration are named."""
    return f"iter_{iteration:08d}"


@dataclass(frozen=True)
class Run:
    """One object in one experiment: where its files are."""

    results: Path
    entry: ReportedObject
    experiment: ReportedExperiment

    @property
    def key(self) -> str:
        """A name that is unique in the page."""
        return f"{self.entry.name}/{self.experiment.name}"

    @property
    def normals(self) -> str:
        """The normal set that went in."""
        return self.experiment.normals or self.entry.normals

    @property
    def last(self) -> int:
        """The last iteration: the result."""
        return max(self.experiment.steps)

    @property
    def capture(self) -> Path:
        """Folder of the capture."""
        return self.results / "captures" / self.entry.name / self.normals

    @property
    def integration(self) -> Path:
        """Folder of the integrated ray distances."""
        return self.results / "integration" / self.entry.name / self.normals

    @property
    def folder(self) -> Path:
        """Folder of everything the experiment made of the object."""
        return self.results / self.experiment.name / self.entry.name

    @property
    def initial_poses(self) -> Path:
        """The poses that training starts from."""
        return self.folder / "register/initial_poses.json"

    @property
    def history(self) -> Path:
        """The training history."""
        return self.folder / "train/history.csv"

    def poses(self, iteration: int) -> Path:
        """The poses at an iteration."""
        return self.folder / f"train/poses/{stem(iteration)}.json"

    def mesh(self, iteration: int) -> Path:
        """The surface at an iteration."""
        return self.folder / f"meshes/{stem(iteration)}.ply"

    def render(self, iteration: int) -> Path:
        """Folder of the rendered normals at an iteration."""
        return self.folder / f"renders/{stem(iteration)}"

    def metrics(self, iteration: int) -> Path:
        """The numbers at an iteration."""
        return self.folder / f"metrics/{stem(iteration)}.json"

    def errors(self, iteration: int) -> Path:
        """The error maps at an iteration."""
        return self.folder / f"metrics/{stem(iteration)}.errors.npz"

    def provenance(self, stage: str) -> list[Path]:
        """The provenance files of a stage, one for each time it runs for this object."""
        once = {
            "prepare": self.capture / "provenance.json",
            "integrate": self.integration / "provenance.json",
            "register": self.folder / "register/provenance.json",
            "train": self.folder / "train/provenance.json",
        }
        if stage in once:
            return [once[stage]]
        if stage == "render":
            return [self.render(self.last) / "provenance.json"]
        folder = self.folder / {"mesh": "meshes", "evaluate": "metrics"}[stage]
        return [folder / f"{stem(step)}.provenance.json" for step in self.experiment.steps]

    def outputs(self, stage: str) -> list[Path]:
        """The files that a stage must have left behind when it has worked."""
        steps = self.experiment.steps
        return {
            "prepare": [self.capture / "capture.npz"],
            "integrate": [self.integration / "ray_distance.npz"],
            "register": [self.initial_poses],
            "train": [self.history, *(self.poses(step) for step in steps)],
            "mesh": [self.mesh(step) for step in steps],
            "render": [self.render(self.last)],
            "evaluate": [self.metrics(step) for step in steps],
        }[stage]


STAGES = ("prepare", "integrate", "register", "train", "mesh", "render", "evaluate")
AFTER: dict[str, tuple[str, ...]] = {
    "prepare": (),
    "integrate": ("prepare",),
    "register": ("prepare",),
    "train": ("prepare", "integrate", "register"),
    "mesh": ("train",),
    "render": ("train",),
    "evaluate": ("mesh",),
}


@dataclass(frozen=True)
class StageState:
    """How a stage of one run stands."""

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
    for stage in STAGES:
        causes = [states[name].cause for name in AFTER[stage] if states[name].cause]
        missing = tuple(path for path in run.outputs(stage) if not path.exists())
        if causes:
            states[stage] = StageState(stage, "waiting", cause=causes[0])
        elif missing:
            states[stage] = StageState(stage, "failed", cause=stage, missing=missing[:3])
        else:
            states[stage] = StageState(stage, "done", seconds_of(run, stage))
    return states


def seconds_of(run: Run, stage: str) -> float | None:
    """The seconds that the provenance of a stage tells, over all iterations; None if none does."""
    told = []
    for path in run.provenance(stage):
        try:
            told.append(float(read_json(path)["seconds"]))
        except (Unavailable, KeyError, TypeError, ValueError):
            continue
    return sum(told) if told else None


def shown_path(path: Path, results: Path) -> str:
    """A path as people know it: from the results folder on."""
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
    places = {
        "prepare": [
            f"prepare/{run.entry.name}/{run.normals}",
            f"synthesize/{run.entry.dataset}/{run.entry.name}",
            f"fetch/{run.entry.dataset}",
        ],
        "integrate": [f"integrate/{run.entry.name}/{run.normals}"],
    }.get(stage, [f"{stage}/{own}"])
    found = [
        path
        for place in places
        for path in [*logs.glob(f"{place}.log"), *logs.glob(f"{place}/*.log")]
    ]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    tails = []
    for path in found:
        text = path.read_bytes().decode("utf-8", errors="replace").rstrip()
        # a progress bar writes over its own line
        lines = [line.rpartition("\r")[2] for line in text.split("\n")]
        if text:
            tails.append(LogTail(shown_path(path, run.results), "\n".join(lines[-count:])))
    return tuple(tails)
