"""Tables of an accuracy study: every result, and a summary in Markdown."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from pmni.config.study import Cell, StudySettings
from pmni.errors import InputError
from pmni.evaluation.metrics import Quantity, column_order, find_quantity, quantities

OK = "ok"
"""Status of a result whose poses are right."""

WRONG_POSES = "wrong poses"
"""Status of a result with a camera that is rotated too far from the ground truth."""

NOT_RUN = "not run"
"""Status of a result that is missing without an error in any log."""

MADE_WITH = ("device", "commit")
"""Columns that tell what a result was computed with."""

Explain = Callable[[str, str], tuple[str, str]]
"""Status and reason of a missing result, from the names of its capture and experiment."""


def quantity_of(column: str) -> Quantity:
    """The number in a column that the settings name. Raises InputError for an unknown one."""
    quantity = find_quantity(column)
    if quantity is None:
        columns = ", ".join(entry.key for entry in quantities())
        raise InputError(f"study: unknown metric '{column}'; known: {columns}")
    return quantity


def tabulate(
    benchmark: pd.DataFrame,
    cells: Sequence[Cell],
    experiments: Sequence[str],
    wrong_poses_deg: float,
    explain: Explain,
) -> pd.DataFrame:
    """One row for each capture and experiment, whether it has a result or not.

    Of an object's iterations the kept one counts, else the last. `status` is ok; wrong poses, when
    a camera is rotated by more than `wrong_poses_deg` from the ground truth; or what `explain`
    says of a missing result, with its message in `reason`. Numbers are all registered metrics.
    """
    results = _results(benchmark)
    default = [entry.key for entry in quantities()]
    columns = [*column_order(dict.fromkeys([*default, *benchmark.columns])), *MADE_WITH]
    rows = []
    for cell in cells:
        for experiment in experiments:
            row = {"capture": cell.name, "object": cell.scene, "seed": cell.seed, **cell.levels}
            row |= {"changed": " ".join(cell.changed) or "base", "experiment": experiment}
            result = results.get((cell.name, experiment))
            if result is None:
                status, reason = explain(cell.name, experiment)
                rows.append(row | {"status": status, "reason": reason})
                continue
            worst = result.get("rotation_error_max_deg")
            wrong = pd.notna(worst) and worst > wrong_poses_deg
            reason = f"a camera is {worst:.0f} degrees off" if wrong else ""
            numbers = {name: result.get(name) for name in columns}
            rows.append(row | {"status": WRONG_POSES if wrong else OK, "reason": reason} | numbers)
    table = pd.DataFrame(rows)
    return table.reindex(columns=[*table.columns, *(n for n in columns if n not in table)])


def summarise(table: pd.DataFrame, settings: StudySettings, figures: Sequence[str]) -> str:
    """The summary in Markdown: figures (file names), medians over what worked, and all failures."""
    lines = [
        "<!-- Written by `pmni study`; every result is a line of table.csv. -->",
        "# Results of the accuracy study",
        "",
        *(f"![{name.removesuffix('.png')}]({name})\n" for name in figures),
        "Medians over the objects (and seeds) whose poses were found; `worked` counts them.",
        f"Made on {_distinct(table['device'])}; commit {_distinct(table['commit'])}.",
    ]
    shown = [quantity_of(column) for column in settings.summary]
    for title, rows, varied, levels in _groups(table, settings):
        lines += ["", f"## {title}", "", *_medians(rows, varied, levels, shown)]
    failed = table[table["status"] != OK]
    lines += ["", "## What failed", ""]
    lines += [*_failures(failed)] if len(failed) else ["Nothing."]
    return "\n".join(lines) + "\n"


Group = tuple[str, pd.DataFrame, str, list[str]]
"""Title, rows, the column that is varied, and its levels."""


def _groups(table: pd.DataFrame, settings: StudySettings) -> Iterator[Group]:
    """The base case by object, each factor by level, and captures with several changes."""
    base = table[table["changed"] == "base"]
    yield "The base case", base, "object", list(dict.fromkeys(base["object"]))
    single = table["changed"].isin(["base", *settings.factors])
    for name, factor in settings.factors.items():
        rows = table[single & table["changed"].isin(["base", name])]
        rows = rows[rows["object"].isin(settings.objects)]
        if (rows["changed"] == name).any():
            yield factor.title, rows, name, list(factor.levels)
    if not single.all():
        several = table[~single]
        yield "Several at a time", several, "capture", list(several["capture"].unique())


def _medians(
    rows: pd.DataFrame, varied: str, levels: Sequence[str], shown: Sequence[Quantity]
) -> Iterator[str]:
    """A table of medians, one line for each level and experiment."""
    yield _line([varied, "experiment", "worked", *(quantity.heading for quantity in shown)])
    yield _line(["---"] * (3 + len(shown)))
    for level in levels:
        for experiment in rows["experiment"].unique():
            group = rows[(rows[varied] == level) & (rows["experiment"] == experiment)]
            worked = group[group["status"] == OK]
            numbers = [_text(worked[entry.key].median(), entry) for entry in shown]
            yield _line([level, experiment, f"{len(worked)} of {len(group)}", *numbers])


def _failures(failed: pd.DataFrame) -> Iterator[str]:
    """A table of the results that are missing or wrong."""
    chamfer = quantity_of("chamfer_mm")
    yield _line(["capture", "experiment", "status", "reason", chamfer.heading])
    yield _line(["---"] * 5)
    for _, row in failed.iterrows():
        number = _text(row["chamfer_mm"], chamfer)
        yield _line([row["capture"], row["experiment"], row["status"], row["reason"], number])


def _line(values: Sequence[object]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(str(value).replace("|", "/") for value in values) + " |"


def _distinct(values: pd.Series) -> str:
    """The distinct values of a column, separated by commas."""
    return ", ".join(map(str, values.dropna().unique())) or "unknown"


def _text(value: float, quantity: Quantity) -> str:
    """A number as people read it; empty if it is unknown."""
    return "" if pd.isna(value) else format(value, quantity.format)


def _results(benchmark: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """The row that is the result, by object and experiment."""
    ours = benchmark[benchmark["source"] == "ours"].sort_values("iteration", kind="stable")
    results: dict[tuple[str, str], dict[str, Any]] = {}
    for (capture, experiment), group in ours.groupby(["object", "experiment"], sort=False):
        kept = group[group["kept"].astype(str) == "True"] if "kept" in group else group[:0]
        row = (kept if len(kept) else group).iloc[-1]
        results[str(capture), str(experiment)] = {str(key): row[key] for key in row.index}
    return results
