"""The table of all objects and experiments, with the best of each object marked."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pmni.evaluation.metrics import column_order, find_quantity
from pmni.reporting.descriptions import PoseKind, pose_kind
from pmni.reporting.metric_labels import ARROWS, format_value
from pmni.reporting.results_index import Run, StageState, Unavailable, load, read_json
from pmni.runtime.layout import Results

ROTATION = "rotation_error_cameras_mean_deg"
"""Metric whose value before refinement and training stands beside it."""

INITIAL_ROTATION = "rotation_error_initial_mean_deg"
"""The rotation error of the initial poses."""

KEYS = ("dataset", "object", "experiment", "iteration", "source")
"""Columns of benchmark.csv that identify a row."""

SUMMARY_ADDED = ("chamfer_percent", ROTATION, "translation_error_cameras_percent")
"""Metrics of the summary that do not lead in benchmark.csv."""

SUMMARY_OMITTED = (
    "rotation_error_mean_deg",
    "rotation_error_max_deg",
    "translation_error_percent",
    "vertices",
    "watertight",
    "refine_seconds",
    "peak_memory_mb",
)
"""Metrics that lead in benchmark.csv but are left to the table of all numbers."""


@dataclass
class Cell:
    """One number of the column `key`."""

    key: str
    value: float | None = None
    before: float | None = None
    """The same number at the start."""
    best: bool = False

    @property
    def text(self) -> str:
        """The number as people read it."""
        return format_value(self.key, self.value)

    @property
    def text_before(self) -> str:
        """The number at the start; empty where it is not known."""
        return "" if self.before is None else format_value(self.key, self.before)


@dataclass
class Row:
    """One line of the table."""

    label: str
    cells: dict[str, Cell]
    poses: PoseKind | None = None
    alignment: str = ""
    anchor: str = ""
    failed: str = ""
    """The stage that failed; empty when all is there."""
    source: str = "ours"
    note: str = ""
    result: str = ""
    """Which surface it is, where there was a choice."""


@dataclass(frozen=True)
class Group:
    """All lines of one object."""

    name: str
    anchor: str
    rows: list[Row]


@dataclass(frozen=True)
class Column:
    """A column that has at least one value."""

    key: str
    label: str
    unit: str
    arrow: str
    meaning: str


@dataclass(frozen=True)
class Summary:
    """The table, and which of its files could not be read."""

    columns: list[Column]
    groups: list[Group]
    problems: list[Unavailable]


def numbers_of(run: Run, iteration: int) -> dict[str, Any]:
    """The metrics of a run at an iteration. Raises Unavailable."""
    return read_json(run.folder.metrics(iteration))


def build_summary(
    results: Path,
    runs: list[Run],
    states: dict[str, dict[str, StageState]],
    anchor: Callable[[str], str],
) -> Summary:
    """Our numbers from the metrics, completed and joined by the published ones of benchmark.csv.

    `states` holds the stages of each run by its key; `anchor` makes an HTML id of a name.
    """
    problems: list[Unavailable] = []
    try:
        benchmark = load(Results(results).benchmark, read_benchmark)
    except Unavailable as error:
        problems.append(error)
        benchmark = pd.DataFrame(columns=[*KEYS])
    groups = []
    for name in dict.fromkeys(run.entry.name for run in runs):
        rows = []
        for run in (run for run in runs if run.entry.name == name):
            stages = states[run.key]
            failed = next((s.cause for s in stages.values() if s.state != "done"), "")
            numbers: dict[str, Any] = {}
            if stages["evaluate"].state == "done":
                try:
                    numbers = numbers_of(run, run.result)
                except Unavailable as error:
                    problems.append(error)
                    failed = "evaluate"
                numbers = _completed(numbers, benchmark, run, stages)
            row = Row(run.experiment.name, _cells(numbers), failed=failed, anchor=anchor(run.key))
            row.poses = pose_kind(run.experiment.registration_method)
            row.alignment = str(numbers.get("alignment") or "")
            row.note = run.experiment.summary
            row.result = run.name_of(run.result) if len(run.candidates) > 1 and numbers else ""
            rows.append(row)
        mark_best(rows)
        rows += _published(benchmark, run.entry.dataset, name)
        groups.append(Group(name, anchor(name), rows))
    if len(groups) > 1:
        groups.append(Group("Mean", "", _means(groups, runs)))
    return Summary(_columns(groups), groups, problems)


def read_benchmark(path: Path) -> pd.DataFrame:
    """The tidy table; raises ValueError without its key columns."""
    table = pd.read_csv(path)
    for column in KEYS:
        if column not in table:
            raise ValueError(f"has no column '{column}'")
    return table


def _completed(
    numbers: dict[str, Any], benchmark: pd.DataFrame, run: Run, stages: dict[str, StageState]
) -> dict[str, Any]:
    """Metrics, with what only the table or the stages know."""
    mine = benchmark[
        (benchmark["object"] == run.entry.name)
        & (benchmark["experiment"] == run.experiment.name)
        & (benchmark["iteration"] == run.result)
        & (benchmark["source"].fillna("ours") == "ours")
    ]
    told = {} if mine.empty else _numbers_in(mine.iloc[0])
    seconds = [stage.seconds for stage in stages.values() if stage.seconds is not None]
    known = {key: value for key, value in numbers.items() if value is not None}
    return {"total_seconds": sum(seconds) if seconds else None} | told | known


def _cells(numbers: dict[str, Any]) -> dict[str, Cell]:
    """The cells of the summary; other registered metrics stand in the table of all numbers."""
    keys = [key for key in column_order(numbers) if _in_summary(key)]
    cells = {key: Cell(key, _number(numbers[key])) for key in keys}
    if ROTATION in cells:
        cells[ROTATION].before = _number(numbers.get(INITIAL_ROTATION))
    return cells


def _in_summary(key: str) -> bool:
    quantity = find_quantity(key)
    leading = quantity is not None and quantity.leading
    return key in SUMMARY_ADDED or (leading and key not in SUMMARY_OMITTED)


def _numbers_in(line: pd.Series) -> dict[str, Any]:
    """The values of a line of the table that are there."""
    return {str(key): value for key, value in line.items() if pd.notna(value)}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    return float(value) if np.isfinite(value) else None


def mark_best(rows: list[Row]) -> None:
    """Mark the best number of each column, where at least two rows have one."""
    for key in {key for row in rows for key in row.cells}:
        quantity = find_quantity(key)
        better = {"lower": -1, "none": 0, "higher": 1}[quantity.direction if quantity else "none"]
        cells = [row.cells[key] for row in rows if key in row.cells]
        values = [better * cell.value for cell in cells if cell.value is not None]
        if not better or len(values) < 2:
            continue
        for cell in cells:
            cell.best = cell.value is not None and better * cell.value == max(values)


def _published(benchmark: pd.DataFrame, dataset: str, name: str) -> list[Row]:
    """Published numbers of an object."""
    theirs = benchmark[
        (benchmark["dataset"] == dataset)
        & (benchmark["object"] == name)
        & (benchmark["source"].fillna("ours") != "ours")
    ]
    rows = []
    for _, line in theirs.iterrows():
        label = str(line["experiment"] if pd.notna(line["experiment"]) else line["source"])
        rows.append(Row(label, _cells(_numbers_in(line)), source=str(line["source"])))
    return rows


def _means(groups: list[Group], runs: list[Run]) -> list[Row]:
    """Each experiment's mean over the objects that have a result, then those of published methods.

    A published method has a mean only if it has a number for every object.
    """
    ours = []
    for experiment in {run.experiment.name: run.experiment for run in runs}.values():
        mine = [row for row in _rows(groups, "ours") if row.label == experiment.name]
        done = [row for row in mine if not row.failed]
        row = Row(experiment.name, _mean_cells(done, len(done)))
        row.poses = pose_kind(experiment.registration_method)
        row.alignment = ", ".join(sorted({r.alignment for r in done if r.alignment}))
        row.note = f"{len(done)} of {len(mine)} objects" if len(done) < len(mine) else ""
        ours.append(row)
    mark_best([row for row in ours if not row.note])  # other objects' means do not compare
    theirs = []
    for label, source in dict.fromkeys((r.label, r.source) for r in _rows(groups, "theirs")):
        cells = _mean_cells([r for r in _rows(groups, "theirs") if r.label == label], len(groups))
        if any(cell.value is not None for cell in cells.values()):
            theirs.append(Row(label, cells, source=source))
    return ours + theirs


def _rows(groups: list[Group], whose: str) -> list[Row]:
    return [row for g in groups for row in g.rows if (row.source == "ours") == (whose == "ours")]


def _mean_cells(rows: list[Row], count: int) -> dict[str, Cell]:
    """Means of all columns for which all `count` rows have a number."""
    cells = {}
    for key in {key for row in rows for key in row.cells}:
        shared = [row.cells.get(key, Cell(key)) for row in rows]
        before = _mean([cell.before for cell in shared], count)
        cells[key] = Cell(key, _mean([cell.value for cell in shared], count), before)
    return cells


def _mean(values: list[float | None], count: int) -> float | None:
    """The mean; None unless all `count` values are known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if count and len(known) == count else None


def _columns(groups: list[Group]) -> list[Column]:
    """The columns that have at least one value, in the order of the registry."""
    cells = [cell for group in groups for row in group.rows for cell in row.cells.values()]
    columns = []
    for key in column_order({cell.key: None for cell in cells if cell.value is not None}):
        if quantity := find_quantity(key):
            arrow = ARROWS[quantity.direction]
            columns.append(Column(key, quantity.label, quantity.unit, arrow, quantity.meaning))
    return columns
