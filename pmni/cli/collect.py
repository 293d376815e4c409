"""`pmni collect`: all metrics, and published numbers beside them, in one tidy table."""

import json
import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import pandas as pd

from pmni.errors import InputError
from pmni.evaluation.benchmark_table import KEY, check_published, tabulate
from pmni.io.atomic import atomic_file

log = logging.getLogger(__name__)


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
    selected = {path.parent.parent: _read_selection(path) for path in args.selections}
    rows = []
    for path in args.metrics:
        if not path.is_file():
            log.warning("%s: missing; left out of the table", path)
            continue
        row, folder = _read_metrics(path), path.parent.parent
        kept = {"kept": row["iteration"] == selected[folder]} if folder in selected else {}
        rows.append(row | kept)
    published = None
    if args.published:
        published = check_published(_read_csv(args.published), str(args.published))
    table = tabulate(rows, published)
    with atomic_file(args.output) as temporary:
        table.to_csv(temporary, index=False)
    log.info("%d rows of ours, %d in all", len(rows), len(table))


def _read_metrics(path: Path) -> dict[str, Any]:
    """The metrics that `evaluate` has written. Raises InputError for any other file."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        row = None
    if not isinstance(row, dict) or not set(KEY) <= set(row):
        raise InputError(f"{path}: not a metrics file; run `pmni evaluate` again")
    return row


def _read_selection(path: Path) -> int | None:
    """The iteration that a training has selected as the result; None if it has not finished."""
    if not path.is_file():
        log.warning("%s: missing; no iteration of this experiment counts as its result", path)
        return None
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["iteration"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a selection; run `pmni train` again") from None


def _read_csv(path: Path) -> pd.DataFrame:
    """A CSV table. Raises InputError naming a file that cannot be read as one."""
    try:
        return pd.read_csv(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:  # also pandas' parser errors
        raise InputError(f"{path}: not a CSV table") from None
