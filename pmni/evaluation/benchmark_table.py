"""The benchmark table: metrics of all results, and published numbers beside them."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pmni.errors import InputError
from pmni.evaluation.metrics import find_quantity, leading_columns

KEY = ("dataset", "object", "experiment", "iteration")
"""Columns that identify a row."""

_WITHOUT_COLUMN = ("similarity",)
"""Keys of the metrics that are no single values."""


def benchmark_columns() -> tuple[str, ...]:
    """The first columns of benchmark.csv: what a row is of, the leading metrics, where it is from.
    Further numbers follow them by name."""
    return (
        *(*KEY, "kept", "alignment"),
        *leading_columns(),
        *("device", "backend", "commit", "source"),
    )


def tabulate(metrics: Sequence[dict[str, Any]], published: pd.DataFrame | None) -> pd.DataFrame:
    """One row for each object, experiment and iteration; of an object, ours before published ones.

    The row of an experiment that is its result has `kept`: its last one, unless the rows say so.
    Raises InputError for two rows of the same object, experiment and iteration.
    """
    ours = [{key: row[key] for key in row if key not in _WITHOUT_COLUMN} for row in metrics]
    theirs = [] if published is None else published.to_dict("records")
    rows = [*ours, *({str(key): row[key] for key in row} for row in theirs)]
    first = benchmark_columns()
    further = sorted({key for row in rows for key in row} - set(first))
    table = pd.DataFrame(rows, columns=[*first, *further])
    for column in table.columns:
        if column == "iteration" or _is_count(column):
            table[column] = table[column].astype("Int64")
    last = table.groupby(list(KEY[:3]))["iteration"].transform("max")
    kept = table["kept"].astype("boolean")
    table["kept"] = kept.fillna((table["iteration"] == last).astype("boolean"))
    duplicates = table[table.duplicated(list(KEY))]
    if len(duplicates):
        row = " ".join(map(str, duplicates.iloc[0][list(KEY)]))
        raise InputError(f"metrics given twice: {row}")
    table["published"] = [False] * len(ours) + [True] * len(theirs)
    order = ["dataset", "object", "published", "experiment", "iteration"]
    return table.sort_values(order, kind="stable", ignore_index=True).drop(columns="published")


def check_published(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The table of published numbers, if its columns are those of the benchmark table. Raises
    InputError, which names `source`, otherwise."""
    columns = benchmark_columns()
    unknown = [
        name for name in table.columns if name not in columns and find_quantity(name) is None
    ]
    missing = [name for name in (*KEY, "source") if name not in table.columns]
    if unknown or missing:
        raise InputError(
            f"{source}: the columns must be among those of the benchmark table, with "
            f"{', '.join(KEY)} and source (wrong here: {', '.join(unknown + missing)})"
        )
    return table


def _is_count(column: str) -> bool:
    """Whether a column holds whole numbers."""
    quantity = find_quantity(column)
    return quantity is not None and quantity.is_count
