"""The summary: best numbers, published ones, means."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures.report_runs import ALL, finished, run_in

from pmni.config.extensions import METRICS
from pmni.evaluation.metrics import Metric
from pmni.reporting.panels import numbers_table
from pmni.reporting.results_index import Run, stage_states
from pmni.reporting.summary import Cell, Row, build_summary, mark_best


def test_the_best_is_the_lowest_distance_and_the_highest_score() -> None:
    rows = [
        Row("a", {"chamfer_mm": Cell("chamfer_mm", 0.2), "fscore_2.0": Cell("fscore_2.0", 0.5)}),
        Row("b", {"chamfer_mm": Cell("chamfer_mm", 0.3), "fscore_2.0": Cell("fscore_2.0", 0.9)}),
        Row("c", {"chamfer_mm": Cell("chamfer_mm"), "fscore_2.0": Cell("fscore_2.0", 0.9)}),
    ]
    mark_best(rows)
    assert [row.cells["chamfer_mm"].best for row in rows] == [True, False, False]
    assert [row.cells["fscore_2.0"].best for row in rows] == [False, True, True]


def test_a_single_number_is_not_called_the_best() -> None:
    row = Row("a", {"chamfer_mm": Cell("chamfer_mm", 0.2)})
    mark_best([row])
    assert not row.cells["chamfer_mm"].best


def test_published_numbers_stand_beside_ours_and_are_never_marked(tmp_path: Path) -> None:
    run = run_in(tmp_path, "reference")
    finished(run, *ALL)
    run.folder.metrics(20).write_text('{"chamfer_mm": 0.5, "alignment": "icp"}', encoding="utf-8")
    pd.DataFrame(
        {
            "dataset": ["pets", "pets", "zoo"],
            "object": ["cat", "cat", "cat"],
            "experiment": ["free", "Other", "Another"],
            "iteration": [20, np.nan, np.nan],
            "source": ["ours", "Somebody 2020", "Somebody 2021"],
            "chamfer_mm": [0.5, 0.1, 0.2],
            "total_seconds": [77.0, np.nan, np.nan],
        }
    ).to_csv(tmp_path / "benchmark.csv", index=False)
    summary = build_summary(tmp_path, [run], {run.key: stage_states(run)}, str)
    ours, theirs = summary.groups[0].rows
    assert (ours.cells["chamfer_mm"].value, ours.cells["total_seconds"].value) == (0.5, 77.0)
    assert (theirs.label, theirs.source) == ("Other", "Somebody 2020")
    assert theirs.cells["chamfer_mm"].value == 0.1
    assert not theirs.cells["chamfer_mm"].best
    assert ours.alignment == "icp"
    assert ours.poses is not None
    assert ours.poses.kind == "given"
    assert [column.key for column in summary.columns] == ["chamfer_mm", "total_seconds"]


def test_a_metric_of_another_package_is_in_the_summary_and_in_all_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METRICS, "_added", {})
    hausdorff = Metric(
        key="hausdorff_mm",
        label="Hausdorff",
        meaning="Largest distance.",
        unit="mm",
        direction="lower",
        format=".1f",
        leading=True,
        compute=lambda comparison: None,
    )
    METRICS.register("hausdorff_mm", hausdorff)
    run = run_in(tmp_path, "reference")
    finished(run, *ALL)
    for step in (10, 20):
        run.folder.metrics(step).write_text('{"hausdorff_mm": 1.25}', encoding="utf-8")
    states = stage_states(run)
    [column] = [
        column
        for column in build_summary(tmp_path, [run], {run.key: states}, str).columns
        if column.key == "hausdorff_mm"
    ]
    assert (column.label, column.unit, column.arrow) == ("Hausdorff", "mm", "↓")
    table = numbers_table(run, states)
    assert ("Hausdorff, mm", ["1.2", "1.2"], "Largest distance.") in table.lines


def test_a_failed_run_has_no_numbers_even_if_old_ones_lie_there(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    finished(run, *(stage for stage in ALL if stage != "train"))
    run.folder.metrics(20).write_text('{"chamfer_mm": 0.5}', encoding="utf-8")
    summary = build_summary(tmp_path, [run], {run.key: stage_states(run)}, str)
    [row] = summary.groups[0].rows
    assert row.failed == "train"
    assert all(cell.value is None for cell in row.cells.values())
    assert [str(problem.path.name) for problem in summary.problems] == ["benchmark.csv"]


def test_means_are_over_the_objects_that_worked_and_compare_only_if_these_are_the_same(
    tmp_path: Path,
) -> None:
    runs = []
    lines = ["dataset,object,experiment,iteration,source,chamfer_mm"]
    for name, chamfer in (("cat", 0.2), ("dog", 0.6)):
        lines += [f"pets,{name},Full,,Somebody,0.{len(runs)}", f"pets,{name},Half,,Else,"]
        for experiment, factor in (("free", 1), ("fixed", 0.5), ("broken", 0.1)):
            run = run_in(tmp_path)
            entry = run.entry.model_copy(update={"name": name})
            run = Run(tmp_path, entry, run.experiment.model_copy(update={"name": experiment}))
            finished(run, *ALL)
            numbers = f'{{"chamfer_mm": {chamfer * factor}, "alignment": "icp"}}'
            run.folder.metrics(20).write_text(numbers, encoding="utf-8")
            runs.append(run)
    (tmp_path / "benchmark.csv").write_text("\n".join(lines), encoding="utf-8")
    runs[2].folder.training.history.unlink()  # cat, broken
    summary = build_summary(tmp_path, runs, {run.key: stage_states(run) for run in runs}, str)
    means = {row.label: row for row in summary.groups[-1].rows}
    assert list(means) == ["free", "fixed", "broken", "Full"]  # Half has no numbers
    values = [row.cells["chamfer_mm"].value for row in means.values()]
    assert values == pytest.approx([0.4, 0.2, 0.06, 0.15])
    assert [row.cells["chamfer_mm"].best for row in means.values()] == [False, True, False, False]
    assert means["broken"].note == "1 of 2 objects"
