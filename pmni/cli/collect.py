"""`pmni collect`: all metrics, and published numbers beside them, in one tidy table."""

import json
import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pmni.errors import InputError
from pmni.io.atomic import atomic_file

log = logging.getLogger(__name__)

COLUMNS = (
    *("dataset", "object", "experiment", "iteration", "kept", "alignment"),
    *("chamfer_mm", "fscore_0.5", "fscore_1.0", "mae_deg", "mae_heldout_deg"),
    *("rotation_error_mean_deg", "rotation_error_max_deg", "translation_error_percent"),
    *("vertices", "watertight", "refine_seconds", "train_seconds", "total_seconds"),
    *("peak_memory_mb", "device", "backend", "commit", "source"),
)
_KEY = ["dataset", "object", "experiment", "iteration"]
_LEFT_OUT = ("similarity",)
_WHOLE = ("iteration", "vertices")


def add_arguments(parser: ArgumentParser) -> None:
    """Options of the stage."""
    parser.add_argument("--metrics", type=Path, nargs="*", default=[], help="metrics/iter_*.json")
    parser.add_argument(
        "--selections",
        type=Path,
        nargs="*",
        default=[],
        help="train/selection.json of the experiments that train: which iteration is the result",
    )
    parser.add_argument("--published", type=Path, help="published numbers, CSV")
    parser.add_argument("--output", type=Path, required=True, help="the table, .csv")


def run(args: Namespace) -> None:
    """Run the stage. Metrics that are missing are left out with a warning.

    A selection belongs to the metrics of the same experiment and object: to those with which it
    shares the folder above its own.
    """
    there = [path for path in args.metrics if path.is_file()]
    for path in args.metrics:
        if path not in there:
            log.warning("%s: missing; left out of the table", path)
    selected = {path.parent.parent: _read_selection(path) for path in args.selections}
    rows = []
    for path in there:
        row, folder = _read_metrics(path), path.parent.parent
        kept = {"kept": row["iteration"] == selected[folder]} if folder in selected else {}
        rows.append(row | kept)
    table = tabulate(
        rows,
        _read_published(args.published) if args.published else None,
    )
    with atomic_file(args.output) as temporary:
        table.to_csv(temporary, index=False)
    log.info("%d rows of ours, %d in all", len(there), len(table))


def tabulate(metrics: Sequence[dict[str, Any]], published: pd.DataFrame | None) -> pd.DataFrame:
    """One row for each object, experiment and iteration; of an object, ours before published ones.

    The row of an experiment that is its result has `kept`: its last one, unless the rows say so.
    COLUMNS come first, then further numbers by name. Raises InputError for a row given twice.
    """
    ours = [{key: row[key] for key in row if key not in _LEFT_OUT} for row in metrics]
    theirs = [] if published is None else published.to_dict("records")
    further = sorted({key for row in ours for key in row} - set(COLUMNS))
    rows = [*ours, *({str(key): row[key] for key in row} for row in theirs)]
    table = pd.DataFrame(rows, columns=[*COLUMNS, *further])
    for column in _WHOLE:
        table[column] = table[column].astype("Int64")
    last = table.groupby(_KEY[:3])["iteration"].transform("max")
    kept = table["kept"].astype("boolean")
    table["kept"] = kept.fillna((table["iteration"] == last).astype("boolean"))
    twice = table[table.duplicated(_KEY)]
    if len(twice):
        raise InputError(f"metrics given twice: {' '.join(map(str, twice.iloc[0][_KEY]))}")
    table["published"] = [False] * len(ours) + [True] * len(theirs)
    order = ["dataset", "object", "published", "experiment", "iteration"]
    return table.sort_values(order, kind="stable", ignore_index=True).drop(columns="published")


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        row = None
    if not isinstance(row, dict) or not set(_KEY) <= set(row):
        raise InputError(f"{path}: not a metrics file; run `pmni evaluate` again")
    return row


def _read_selection(path: Path) -> int | None:
    """The iteration that a training found to be the result; None if it has not finished."""
    if not path.is_file():
        log.warning("%s: missing; no iteration of this experiment counts as its result", path)
        return None
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["iteration"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a selection; run `pmni train` again") from None


def _read_published(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:  # also pandas' parser errors
        raise InputError(f"{path}: not a CSV table") from None
    unknown = [name for name in table.columns if name not in COLUMNS]
    missing = [name for name in (*_KEY, "source") if name not in table.columns]
    if unknown or missing:
        raise InputError(
            f"{path}: the columns must be among those of the benchmark table, with "
            f"{', '.join(_KEY)} and source (wrong here: {', '.join(unknown + missing)})"
        )
    return table
