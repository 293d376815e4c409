"""The stage `study`: tables, plots, and that they show what failed."""

import json
from pathlib import Path

import pandas as pd
import pytest
from fixtures.study_scene import EXPERIMENTS, SETTINGS, benchmark_table, write_logs

from pmni.cli.main import main


@pytest.fixture
def benchmark() -> pd.DataFrame:
    return benchmark_table()


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return write_logs(tmp_path)


def run(folder: Path, benchmark: pd.DataFrame, logs: Path, *options: str) -> Path:
    benchmark.to_csv(folder / "benchmark.csv", index=False)
    arguments = ["--benchmark", str(folder / "benchmark.csv"), "--logs", str(logs)]
    arguments += ["--settings", json.dumps(SETTINGS), "--experiments", *EXPERIMENTS, *options]
    assert main(["study", *arguments, "--output", str(folder / "out")]) == 0
    return folder / "out"


def test_the_stage_writes_tables_and_plots(
    tmp_path: Path, benchmark: pd.DataFrame, logs: Path
) -> None:
    out = run(tmp_path, benchmark, logs)
    made = {path.name for path in out.iterdir()}
    assert made == {
        "table.csv", "table.md", "surface.png", "normals.png", "poses.png", "seconds.png"
    }  # fmt: skip
    assert len(pd.read_csv(out / "table.csv")) == 18
    text = (out / "table.md").read_text()
    assert "| knot-noise-8 | fast | failed in register | knot-noise-8: no poses agree |  |" in text
    assert "| pot-base | fast | wrong poses | a camera is 170 degrees off | 0." in text
    rows = [line.split(" | ")[:3] for line in text.splitlines() if line.startswith("| 8 | ")]
    assert rows == [["| 8", "fast", "1 of 2"], ["| 8", "calibrated", "2 of 2"]]
    assert "![surface](surface.png)" in text
    assert "Made on A GPU; commit 0123abc." in text


def test_the_stage_without_results(tmp_path: Path, benchmark: pd.DataFrame) -> None:
    out = run(tmp_path, benchmark[:0], tmp_path, "--only", "ball-base", "pot-base")
    plots = {"surface.png", "normals.png", "poses.png", "seconds.png"}  # without a dot
    assert {path.name for path in out.iterdir()} == {"table.csv", "table.md"} | plots
    assert (out / "table.md").read_text().count("| not run |") == 4
