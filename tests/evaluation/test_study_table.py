"""The table of an accuracy study: every capture and experiment has a row."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fixtures.study_scene import EXPERIMENTS, benchmark_table, study, write_logs

from pmni.cli.study import failures_in
from pmni.evaluation.study_table import tabulate


@pytest.fixture
def benchmark() -> pd.DataFrame:
    return benchmark_table()


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return write_logs(tmp_path)


class TestTable:
    def test_every_capture_and_experiment_has_a_row(
        self, benchmark: pd.DataFrame, logs: Path
    ) -> None:
        table = tabulate(
            benchmark, study().cells(), EXPERIMENTS, 10.0, failures_in(logs, EXPERIMENTS)
        )
        assert len(table) == 2 * len(study().cells())
        rows: Any = table.set_index(["capture", "experiment"])
        assert (rows["status"] != "ok").sum() == 2
        refused = rows.loc["knot-noise-8", "fast"]
        assert refused["status"] == "failed in register"
        assert refused["reason"] == "knot-noise-8: no poses agree"
        assert np.isnan(refused["chamfer_mm"])
        lost = rows.loc["pot-base", "fast"]
        assert (lost["status"], lost["reason"]) == ("wrong poses", "a camera is 170 degrees off")
        assert rows.loc["ball-noise-0", "fast"]["changed"] == "noise"
        assert rows.loc["ball-noise-0", "fast"]["masks"] == "0"

    def test_the_kept_iteration_counts_else_the_last(
        self, benchmark: pd.DataFrame, logs: Path
    ) -> None:
        cells, explain = study().cells(), failures_in(logs, EXPERIMENTS)
        assert tabulate(benchmark, cells, EXPERIMENTS, 10.0, explain)["chamfer_mm"].max() < 1
        unknown = benchmark.drop(columns="kept")
        assert tabulate(unknown, cells, EXPERIMENTS, 10.0, explain)["chamfer_mm"].min() > 5

    def test_a_log_of_a_shared_stage_and_a_traceback(
        self, benchmark: pd.DataFrame, tmp_path: Path
    ) -> None:
        folder = tmp_path / "logs/integrate/knot-noise-8"
        folder.mkdir(parents=True)
        text = "Traceback (most recent call last):\n  File\nMemoryError: too large\n"
        (folder / "normal_camera_space_noisy.log").write_text(text)
        table = tabulate(
            benchmark,
            study().cells(),
            EXPERIMENTS,
            10.0,
            failures_in(tmp_path / "logs", EXPERIMENTS),
        )
        row = table[table["chamfer_mm"].isna()].iloc[0]
        assert (row["status"], row["reason"]) == ("failed in integrate", "MemoryError: too large")

    def test_without_any_result(self, tmp_path: Path) -> None:
        empty = pd.DataFrame(columns=["object", "experiment", "iteration", "source", "kept"])
        table = tabulate(
            empty, study().cells(), EXPERIMENTS, 10.0, failures_in(tmp_path, EXPERIMENTS)
        )
        assert set(table["status"]) == {"not run"}
        assert table["chamfer_mm"].isna().all()
