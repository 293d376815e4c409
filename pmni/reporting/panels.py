"""The panels of one object in one experiment; each survives what is missing and says so."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float

from pmni.config.reporting import ReportSettings
from pmni.data.capture import Capture
from pmni.evaluation.metrics import column_order, find_quantity
from pmni.geometry.poses import Poses
from pmni.io.poses import read_poses
from pmni.reporting import cameras, charts
from pmni.reporting.descriptions import PoseKind, pose_kind, selection_text
from pmni.reporting.gallery import Gallery, read_normal_errors, result_gallery
from pmni.reporting.metric_labels import format_value, heading_of
from pmni.reporting.results_index import (
    LogTail,
    Run,
    StageState,
    Unavailable,
    available_surfaces,
    display_path,
    load,
    log_tails,
    read_json,
    read_selection,
    read_significance,
)
from pmni.reporting.summary import numbers_of

T = TypeVar("T")
Content = TypeVar("Content")
"""Data that a panel shows."""

LOGGER = logging.getLogger("report")


ROUNDING_ERROR_DEG = 1e-6
"""Rotation error up to which poses count as the given ones, held fixed, degrees."""


@dataclass(frozen=True)
class Problem:
    """Why a panel, or a part of it, is not there."""

    text: str
    logs: tuple[LogTail, ...] = ()


@dataclass
class Panel(Generic[Content]):
    """A part of the page: what it shows, or why it shows nothing."""

    content: Content | None = None
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class NamedChart:
    """A chart's title and its key in the page's data."""

    title: str
    key: str


@dataclass
class Charts:
    """Charts of one kind, and facts that belong to them."""

    charts: list[NamedChart] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)


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
    verdict: Panel[str]
    """Which surface is the result, and why; empty where there is no choice."""
    surface_charts: Panel[Charts]
    """The surfaces' errors over the iterations."""
    cameras: Panel[Charts]
    """The cameras from registration to the result."""
    refinement: Panel[Charts] | None
    """Convergence of the refinement; None without the stage."""
    training: Panel[Charts] | None
    """Convergence of the training; None without the stage."""
    gallery: Panel[Gallery]
    """Rendered normals and their errors."""
    numbers: Panel[Table]
    """All metrics at all iterations."""
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
        files = ", ".join(display_path(path, self.results) for path in expected)
        text = f"{files} missing: stage {stage.cause} did not finish."
        return Problem(text, self.tails(stage.cause, run))

    def problem(self, error: Unavailable, run: Run, stage: str) -> Problem:
        """The named file, and what the stage that writes it had to say."""
        text = f"{display_path(error.path, self.results)}: {error.reason}"
        return Problem(text, self.tails(stage, run))

    def tails(self, stage: str, run: Run) -> tuple[LogTail, ...]:
        """The ends of the logs of a stage."""
        return log_tails(self.logs, stage, run, self.settings.log_lines)


AddChart = Callable[[str, charts.Chart], str]
"""Puts a chart among the page's data and gives its key."""


def build_run(
    context: Context,
    run: Run,
    states: dict[str, StageState],
    capture: Capture | None,
    errors_top: float | None,
    anchor: str,
    add_chart: AddChart,
) -> RunView:
    """All panels of a run."""
    failed = next((state for state in states.values() if state.state == "failed"), None)
    view = RunView(
        key=run.key,
        anchor=anchor,
        name=run.experiment.name,
        summary=run.experiment.summary,
        poses=pose_kind(run.experiment.registration_method),
        stages=list(states.values()),
        failure=context.unfinished(run, failed) if failed else None,
        verdict=_verdict(context, run, states),
        surface_charts=_surface_charts(context, run, states, add_chart),
        cameras=_cameras(context, run, states, capture, add_chart),
        refinement=None,
        training=None,
        gallery=Panel(),
        numbers=Panel(),
        provenance=provenance_of(run),
    )
    if "refine" in states:
        view.refinement = _history(
            context, run, states["refine"], add_chart,
            lambda: charts.refinement_charts(
                load(
                    run.folder.refinement.history,
                    lambda path: charts.read_history(path, "iteration"),
                )
            ),
        )  # fmt: skip
    if "train" in states:
        view.training = _history(
            context, run, states["train"], add_chart,
            lambda: charts.history_charts(load(run.folder.training.history, charts.read_history)),
        )  # fmt: skip

    def gallery() -> Gallery:
        if capture is None:
            raise Unavailable(run.capture.archive, "is needed and cannot be read")
        return result_gallery(run, capture, errors_top, context.settings)

    content, problems = context.attempt(gallery, run, states["render"])
    view.gallery = Panel(content, problems)
    if content is not None:
        view.gallery.problems += [context.problem(e, run, "render") for e in content.problems]
    view.numbers = Panel(
        *context.attempt(lambda: numbers_table(run, states), run, evaluated(run, states))
    )
    return view


def evaluated(run: Run, states: dict[str, StageState]) -> StageState:
    """The state of `evaluate`: done also if only the refined surface could be evaluated."""
    if 0 in available_surfaces(run, states) and run.folder.metrics(0).exists():
        return StageState("evaluate", "done")
    return states["evaluate"]


def _verdict(context: Context, run: Run, states: dict[str, StageState]) -> Panel[str]:
    """Which surface is the result."""
    experiment = run.experiment
    if not experiment.trained:
        return Panel(selection_text(experiment.refined, False, run.result, run.result, {}))
    if states["train"].state != "done":
        return Panel("")

    def explain() -> str:
        selection = read_selection(run)
        return selection_text(
            experiment.refined,
            True,
            selection.iteration,
            run.candidates[-1],
            selection.heldout_error_deg,
            selection.gain_deg,
            selection.gain_standard_error_deg,
            read_significance(run),
        )

    return Panel(*context.attempt(explain, run, states["train"]))


def _history(
    context: Context,
    run: Run,
    state: StageState,
    add_chart: AddChart,
    read: Callable[[], list[tuple[str, charts.Chart]]],
) -> Panel[Charts]:
    """Everything that a stage wrote into its history."""
    named, problems = context.attempt(read, run, state)
    content = Charts([_named(run, add_chart, *each) for each in named or []])
    return Panel(content, problems)


def _named(run: Run, add_chart: AddChart, title: str, chart: charts.Chart) -> NamedChart:
    return NamedChart(title, add_chart(f"{run.key}/{title}", chart))


def _surface_charts(
    context: Context, run: Run, states: dict[str, StageState], add_chart: AddChart
) -> Panel[Charts]:
    """The errors of the surface over the iterations."""
    over_iterations, problems = Charts(), []
    iterations = {}
    if states["evaluate"].state == "done":
        for step in run.experiment.steps:
            try:
                iterations[step] = numbers_of(run, step)
            except Unavailable as error:
                problems.append(context.problem(error, run, "evaluate"))
    for key in ("chamfer_mm", "mae_deg"):
        chart = charts.metric_chart(iterations, key, heading_of(key))
        if chart:
            quantity = find_quantity(key)
            title = quantity.label if quantity else key
            over_iterations.charts.append(_named(run, add_chart, title, chart))
    return Panel(over_iterations, problems)


def _cameras(
    context: Context,
    run: Run,
    states: dict[str, StageState],
    capture: Capture | None,
    add_chart: AddChart,
) -> Panel[Charts]:
    """The cameras as registered, refined and trained; what registration and refinement say."""
    content = Charts()
    panel = Panel(content)

    def add(title: str, chart: charts.Chart) -> None:
        content.charts.append(_named(run, add_chart, title, chart))

    def read(stage: str, path: Path) -> Poses | None:
        if states[stage].state != "done":
            return None  # what failed is said once, above
        poses, problems = context.attempt(lambda: load(path, read_poses), run, states[stage])
        panel.problems += problems
        return poses

    registered = read("register", run.folder.registration.poses)
    refined = read("refine", run.folder.poses(0)) if "refine" in states else None
    series: cameras.Series = {}
    if capture is not None and capture.reference_c2w is not None and registered is not None:
        reference = Poses(capture.views, capture.reference_c2w)
        found = [step for step in run.experiment.steps if _has_poses(run, step, states)]
        last = states["train" if "train" in states else "refine"]
        done = StageState(last.name, "done")
        errors, problems = context.attempt(
            lambda: cameras.pose_series(run, reference, found), run, done
        )
        series = errors or {}
        panel.problems += problems if refined is not None or not run.experiment.refined else []
    largest = max((error for errors in series.values() for error in errors.values()), default=0.0)
    if len(series) > 1 and largest > ROUNDING_ERROR_DEG:
        add("Rotation error of the cameras", cameras.pose_chart(series))
        add("Rotation error, view by view", cameras.view_chart(series))
    if refined is not None:
        deviations = cameras.uncertainty_deg(refined)
        if deviations:
            chart = cameras.uncertainty_chart(deviations, series.get("refined", {}))
            add("Uncertainty of the refined cameras, view by view", chart)
    if registered is not None:
        content.facts = cameras.facts_of(registered.information)
        told = cameras.numbers_by_view(registered.information, registered.views)
        for name, numbers in told.items():
            title = f"Registration: {name.replace('_', ' ')}, view by view"
            add(title, cameras.number_chart(name, numbers))
    return panel


def _has_poses(run: Run, step: int, states: dict[str, StageState]) -> bool:
    """Whether the stage that made an iteration's poses has worked."""
    return states["refine" if run.is_refined(step) else "train"].state == "done"


IDENTITY_KEYS = ("dataset", "object", "experiment", "iteration", "source")
"""Keys of a metrics file that say what was evaluated; they are no metrics."""


def numbers_table(run: Run, states: dict[str, StageState]) -> Table:
    """All metrics that have a value, at all iterations that were evaluated. Raises Unavailable."""
    steps = run.experiment.steps if states["evaluate"].state == "done" else (0,)
    columns = {step: numbers_of(run, step) for step in steps}
    present = {
        key: None
        for numbers in columns.values()
        for key, value in numbers.items()
        if key not in IDENTITY_KEYS and value is not None and not isinstance(value, list | dict)
    }
    registered = column_order(present)
    keys = [*registered, *(key for key in present if key not in registered)]
    lines = []
    for key in keys:
        values = [format_value(key, numbers.get(key)) for numbers in columns.values()]
        quantity = find_quantity(key)
        lines.append((heading_of(key), values, quantity.meaning if quantity else ""))
    return Table([run.title_of(step) for step in columns], lines)


def provenance_of(run: Run) -> list[tuple[str, str, str]]:
    """Stage, facts and settings as JSON, from the provenance of each stage's last iteration."""
    stages = []
    for stage in run.stages:
        try:
            content = read_json(run.provenance(stage)[-1])
        except Unavailable:
            continue
        facts = [f"{name} {content[name]}" for name in ("device", "backend") if name in content]
        if "stopped_at" in content:
            facts.append(f"stopped at step {content['stopped_at']}")
        if "seconds" in content:
            facts.append(f"{format_value('total_seconds', content['seconds'])} s")
        if "peak_memory_mb" in content:
            facts.append(f"{format_value('peak_memory_mb', content['peak_memory_mb'])} MB")
        if content.get("commit"):
            facts.append(f"commit {content['commit']}")
        stages.append((stage, " · ".join(facts), json.dumps(content.get("settings", {}), indent=2)))
    return stages


def errors_of_results(runs: list[Run]) -> list[Float[np.ndarray, "V H W"]]:
    """The normal errors of all results that can be read, for one colour scale."""
    errors = []
    for run in runs:
        try:
            errors.append(load(run.folder.error_maps(run.result), read_normal_errors))
        except Unavailable:
            continue  # its own panel says so
    return errors
