"""One tidy table of all results, with the published numbers beside ours."""

import pandas as pd
import pytest
from fixtures.metrics_files import row

from pmni.errors import InputError
from pmni.evaluation.benchmark_table import benchmark_columns, tabulate


def test_rows_are_in_the_same_order_whatever_the_order_of_the_files() -> None:
    rows = [
        row("pot", iteration=2000),
        row("pot", iteration=900),
        row("blob", experiment="z"),
        row("blob", experiment="a"),
        row("blob", dataset="another"),
    ]
    table = tabulate(rows, None)
    keys = table[["dataset", "object", "experiment", "iteration"]].to_numpy().tolist()
    assert keys == [
        ["another", "blob", "default", 1000],
        ["demo", "blob", "a", 1000],
        ["demo", "blob", "z", 1000],
        ["demo", "pot", "default", 900],
        ["demo", "pot", "default", 2000],
    ]
    pd.testing.assert_frame_equal(table, tabulate(rows[::-1], None))


def test_columns_come_in_order_and_further_numbers_after_them() -> None:
    table = tabulate([row("pot", missed=0.1, similarity={"scale": 1}), row("b", a_detail=2)], None)
    assert list(table.columns) == [*benchmark_columns(), "a_detail", "missed"]


def test_published_rows_follow_ours_of_the_same_object() -> None:
    published = pd.DataFrame(
        {
            "dataset": "demo",
            "object": ["pot", "blob"],
            "experiment": "Another method",
            "iteration": None,
            "chamfer_mm": [0.3, 0.2],
            "source": "A paper",
        }
    )
    table = tabulate([row("pot"), row("blob", experiment="z")], published)
    assert table[["object", "source"]].to_numpy().tolist() == [
        ["blob", "ours"],
        ["blob", "A paper"],
        ["pot", "ours"],
        ["pot", "A paper"],
    ]
    assert table["chamfer_mm"].tolist() == [0.1, 0.2, 0.1, 0.3]
    assert table["iteration"].isna().tolist() == [False, True, False, True]


def test_the_last_row_of_an_experiment_is_its_result_unless_the_rows_say_otherwise() -> None:
    rows = [
        row("pot", iteration=0),
        row("pot", iteration=500),
        row("pot", "fast", iteration=0),
        row("pot", "short", iteration=0, kept=True),
        row("pot", "short", iteration=500, kept=False),
    ]
    published = pd.DataFrame([{"dataset": "demo", "object": "pot", "experiment": "Theirs"}])
    table = tabulate(rows, published)
    kept = table[table["kept"].fillna(False)]
    assert kept[["experiment", "iteration"]].to_numpy().tolist() == [
        ["default", 500],
        ["fast", 0],
        ["short", 0],
    ]
    assert table["kept"].isna().tolist() == [False] * 5 + [True]


def test_a_row_given_twice_is_an_error() -> None:
    with pytest.raises(InputError, match="given twice: demo pot default 1000"):
        tabulate([row("pot"), row("pot", chamfer_mm=0.5)], None)
