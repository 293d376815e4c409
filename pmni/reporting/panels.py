"""The panels of one object in one experiment; each survives what is missing and says so."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from pmni.capture.capture import Capture
from pmni.config.reporting import ReportSettings
from pmni.io.poses import Poses
from pmni.reporting import charts
from pmni.reporting.gallery import Gallery, read_normal_errors, result_gallery
from pmni.reporting.sources import (
    STAGES,
    LogTail,
    Run,
    StageState,
    Unavailable,
    load,
    log_tails,
    read_json,
    shown_path,
)
from pmni.reporting.summary import numbers_of
from pmni.reporting.words import NUMBERS, PoseKind, label_of, pose_kind, shown

T = TypeVar("T")
LOGGER = logging.getLogger("report")


@dataclass(frozen=True)
class Problem:
    """Why a panel, or a part of it, is not there."""

    text: str
    logs: tuple[LogTail, ...] = ()


@dataclass
class Panel:
    """A part of the page: what it shows, or why it shows nothing."""

    content: Any = None
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class NamedChart:
    """A chart's title and its key in the page's data."""

    title: str
    key: str


@dataclass(frozen=True)
class Table:
    """Numbers: one line a quantity, one column an iteration."""

    head: list[str]
    lines: list[tuple[str, list[str], str]]
    """Label, values, meaning."""


@dataclass
class RunView:
    """Everything that the page shows of one object in one experiment."""

    key: str
    anchor: str
    name: str
    summary: str
    poses: PoseKind
    stages: list[StageState]
    failure: Problem | None
    convergence: Panel
    """Content: list of NamedChart."""
    gallery: Panel
    """Content: Gallery."""
    numbers: Panel
    """Content: Table."""
    provenance: list[tuple[str, str, str]]
    """Stage, a line of facts, its settings as JSON."""
    surfaces: list[int] = field(default_factory=list)
    """Iterations whose surface is shown in 3D."""


@dataclass(frozen=True)
class Context:
    """What every panel needs to explain what is missing."""

    results: Path
    logs: Path
    settings: ReportSettings

    def attempt(
        self, make: Callable[[], T], run: Run, stage: StageState
    ) -> tuple[T | None, list[Problem]]:
        """What `make` makes, or the problem in its place. A failed panel never stops the page."""
        if stage.state != "done":
            return None, [self.unfinished(run, stage)]
        try:
            return make(), []
        except Unavailable as error:
            return None, [self.problem(error, run, stage.name)]
        except Exception as error:  # one damaged object must not cost the others their report
            LOGGER.exception("%s: a panel of stage %s could not be made", run.key, stage.name)
            text = f"This panel could not be made: {type(error).__name__}: {error}"
            return None, [Problem(text, self.tails(stage.name, run))]

    def unfinished(self, run: Run, stage: StageState) -> Problem:
        """Why the results of a stage are missing."""
        expected = stage.missing or tuple(run.outputs(stage.name)[:1])
        files = ", ".join(shown_path(path, self.results) for path in expected)
        text = f"{files} missing: stage {stage.cause} did not finish."
        return Problem(text, self.tails(stage.cause, run))

    def problem(self, error: Unavailable, run: Run, stage: str) -> Problem:
        """The named file, and what the stage that writes it had to say."""
        text = f"{shown_path(error.path, self.results)}: {error.reason}"
        return Problem(text, self.tails(stage, run))

    def tails(self, stage: str, run: Run) -> tuple[LogTail, ...]:
        """The ends of the logs of a stage."""
        return log_tails(self.logs, stage, run, self.settings.log_lines)


def build_run(
    context: Context,
    run: Run,
    states: dict[str, StageState],
    capture: Capture | None,
    errors_top: float | None,
    anchor: str,
    add_chart: Callable[[str, charts.Chart], str],
) -> RunView:
    """All panels of a run. `add_chart` puts a chart among the page's data and gives its key."""
    failed = next((state for state in states.values() if state.state == "failed"), None)
    view = RunView(
        key=run.key,
        anchor=anchor,
        name=run.experiment.name,
        summary=run.experiment.summary,
        poses=pose_kind(run.experiment.registration_method),
        stages=list(states.values()),
        failure=context.unfinished(run, failed) if failed else None,
        convergence=_convergence(context, run, states, capture, add_chart),
        gallery=Panel(),
        numbers=Panel(),
        provenance=provenance_of(run),
    )

    def gallery() -> Gallery:
        if capture is None:
            raise Unavailable(run.capture / "capture.npz", "is needed and cannot be read")
        return result_gallery(run, capture, errors_top, context.settings)

    content, problems = context.attempt(gallery, run, states["render"])
    view.gallery = Panel(content, problems)
    if content is not None:
        view.gallery.problems += [context.problem(e, run, "render") for e in content.problems]
    view.numbers = Panel(*context.attempt(lambda: numbers_table(run), run, states["evaluate"]))
    return view


def _convergence(
    context: Context,
    run: Run,
    states: dict[str, StageState],
    capture: Capture | None,
    add_chart: Callable[[str, charts.Chart], str],
) -> Panel:
    """Losses, poses and everything else over the iterations."""
    panel = Panel([])

    def add(title: str, chart: charts.Chart) -> None:
        panel.content.append(NamedChart(title, add_chart(f"{run.key}/{title}", chart)))

    history, problems = context.attempt(
        lambda: charts.history_charts(load(run.history, charts.read_history)), run, states["train"]
    )
    panel.problems += problems
    named = history or []
    for title, chart in named[:1]:
        add(title, chart)
    if capture is not None and capture.reference_c2w is not None:
        reference = Poses(capture.views, capture.reference_c2w)
        series, problems = context.attempt(
            lambda: charts.pose_series(run, reference), run, states["train"]
        )
        panel.problems += [] if not history else problems
        if series:
            add("Rotation error of the cameras", charts.pose_chart(series))
            add("Rotation error, view by view", charts.view_chart(series))
    iterations = {}
    if states["evaluate"].state == "done":
        for step in run.experiment.steps:
            try:
                iterations[step] = numbers_of(run, step)
            except Unavailable as error:
                panel.problems.append(context.problem(error, run, "evaluate"))
    for key in ("chamfer_mm", "mae_deg"):
        over_steps = charts.metric_chart(iterations, key, label_of(key))
        if over_steps:
            add(NUMBERS[key].label, over_steps)
    for title, chart in named[1:]:
        add(title, chart)
    return panel


LEFT_OUT = ("dataset", "object", "experiment", "iteration", "source")


def numbers_table(run: Run) -> Table:
    """All metrics that have a value, at all kept iterations. Raises Unavailable."""
    columns = {step: numbers_of(run, step) for step in run.experiment.steps}
    present = {
        key: None
        for numbers in columns.values()
        for key, value in numbers.items()
        if key not in LEFT_OUT and value is not None and not isinstance(value, list | dict)
    }
    keys = [key for key in NUMBERS if key in present]
    keys += [key for key in present if key not in NUMBERS]
    lines = []
    for key in keys:
        values = [shown(key, numbers.get(key)) for numbers in columns.values()]
        lines.append((label_of(key), values, NUMBERS[key].meaning if key in NUMBERS else ""))
    return Table([f"iteration {step}" for step in columns], lines)


def provenance_of(run: Run) -> list[tuple[str, str, str]]:
    """What is known of the making of each stage, the last iteration's where there are several."""
    told = []
    for stage in STAGES:
        try:
            content = read_json(run.provenance(stage)[-1])
        except Unavailable:
            continue
        facts = [f"{name} {content[name]}" for name in ("device", "backend") if name in content]
        if "seconds" in content:
            facts.append(f"{shown('total_seconds', content['seconds'])} s")
        if "peak_memory_mb" in content:
            facts.append(f"{shown('peak_memory_mb', content['peak_memory_mb'])} MB")
        if content.get("commit"):
            facts.append(f"commit {content['commit']}")
        told.append((stage, " · ".join(facts), json.dumps(content.get("settings", {}), indent=2)))
    return told


def errors_at_the_end(runs: list[Run]) -> list[Float[np.ndarray, "V H W"]]:
    """The normal errors of all results that can be read, for one colour scale."""
    found = []
    for run in runs:
        try:
            found.append(load(run.errors(run.last), read_normal_errors))
        except Unavailable:
            continue  # its own panel says so
    return found
