"""The registry of metrics, and a metric of another package in all tables."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures.evaluation_scene import capture_of, lumpy, reference_poses
from fixtures.study_scene import EXPERIMENTS, SETTINGS, study

from pmni.cli.main import main
from pmni.config.evaluation import EvaluateSettings
from pmni.config.extensions import METRICS
from pmni.data.capture import save_capture
from pmni.errors import InputError
from pmni.evaluation.comparison import Comparison
from pmni.evaluation.metrics import (
    Metric,
    column_order,
    find_quantity,
    metrics_of,
    quantities,
)
from pmni.io.ply import write_ply
from pmni.io.poses import write_poses

DOCUMENT = Path(__file__).parents[2] / "docs/evaluation.md"


def hausdorff(comparison: Comparison) -> float | None:
    """The largest distance between the points of both surfaces."""
    errors = comparison.surface_errors
    return (
        None if errors is None else float(max(errors.to_ground_truth.max(), errors.to_mesh.max()))
    )


HAUSDORFF = Metric(
    key="hausdorff_mm",
    label="Hausdorff distance",
    unit="mm",
    direction="lower",
    meaning="Largest distance from a point of either surface to the nearest one of the other.",
    compute=hausdorff,
)


def test_columns_are_found_and_ordered() -> None:
    chamfer, fscore = find_quantity("chamfer_mm"), find_quantity("fscore_0.7")
    assert chamfer is not None
    assert (chamfer.heading, chamfer.direction) == ("Chamfer, mm", "lower")
    assert fscore is not None
    assert (fscore.key, fscore.label) == ("fscore_0.7", "F @ 0.7 mm")
    assert find_quantity("fscore_best") is find_quantity("object") is None
    columns = ["total_seconds", "object", "mae_deg", "fscore_2.0", "chamfer_mm", "fscore_0.5"]
    assert column_order(columns) == [
        "chamfer_mm", "fscore_2.0", "fscore_0.5", "mae_deg", "total_seconds",
    ]  # fmt: skip


def test_every_metric_says_what_it_is() -> None:
    entries = quantities()
    assert len({entry.key for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.label
        assert entry.meaning.endswith(".")
        format(1.0, entry.format)


def test_thresholds_are_settings() -> None:
    keys = [metric.key for metric in metrics_of(EvaluateSettings(thresholds=(0.25, 2.0)))]
    assert [key for key in keys if key.startswith("fscore")] == ["fscore_0.25", "fscore_2.0"]


def test_the_document_lists_every_metric() -> None:
    rows = re.findall(r"^\| `(\S+)` \| (.*?) \| (.*?) \| (.*?) \|$", DOCUMENT.read_text(), re.M)
    assert [row[0] for row in rows] == [entry.key for entry in quantities()]
    for (_, unit, better, meaning), entry in zip(rows, quantities(), strict=True):
        assert (unit, better) == (entry.unit, {"none": ""}.get(entry.direction, entry.direction))
        assert meaning == entry.meaning


def test_a_name_that_is_not_the_key_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METRICS, "_added", {"hausdorff": HAUSDORFF})
    with pytest.raises(InputError, match="'hausdorff' has the key 'hausdorff_mm'"):
        quantities()


def test_a_metric_of_another_package_is_in_all_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METRICS, "_added", {})
    METRICS.register("hausdorff_mm", HAUSDORFF)
    capture = capture_of(lumpy())
    save_capture(tmp_path / "capture", capture)
    write_ply(tmp_path / "mesh.ply", lumpy())
    write_poses(tmp_path / "poses.json", reference_poses(capture))
    cell = study().cells()[0].name
    output = str(tmp_path / "metrics.json")
    words = ["evaluate", "--capture", str(tmp_path / "capture"), "--output", output]
    words += ["--mesh", str(tmp_path / "mesh.ply"), "--poses", str(tmp_path / "poses.json")]
    words += ["--settings", "{alignment: none}", "--experiment", "fast"]
    assert main(words) == 0
    row = json.loads(Path(output).read_text())
    assert 0 <= row["hausdorff_mm"] < 1e-4  # vertices in single precision
    Path(output).write_text(json.dumps(row | {"object": cell, "hausdorff_mm": 1.25}))
    # collect
    table = tmp_path / "benchmark.csv"
    assert main(["collect", "--metrics", output, "--output", str(table)]) == 0
    assert pd.read_csv(table)["hausdorff_mm"].tolist() == [1.25]
    # study: table.csv has all metrics, table.md those of the settings
    settings = json.dumps(
        SETTINGS | {"summary": ["hausdorff_mm"], "plots": {"worst": "hausdorff_mm"}}
    )
    words = ["study", "--benchmark", str(table), "--logs", str(tmp_path), "--settings", settings]
    words += ["--experiments", *EXPERIMENTS, "--output", str(tmp_path / "study")]
    assert main(words) == 0
    rows = pd.read_csv(tmp_path / "study/table.csv").set_index(["capture", "experiment"])
    assert rows["hausdorff_mm"].dropna().to_dict() == {(cell, "fast"): 1.25}
    text = (tmp_path / "study/table.md").read_text()
    assert "| object | experiment | worked | Hausdorff distance, mm |" in text
    assert "| fast | 1 of 1 | 1.250 |" in text
    assert (tmp_path / "study/worst.png").is_file()
    assert np.isfinite(row["chamfer_mm"])


def test_a_study_of_an_unknown_metric_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "benchmark.csv").write_text("object,experiment,iteration,source,kept\n")
    settings = json.dumps(SETTINGS | {"summary": ["chamfer"]})
    words = ["study", "--benchmark", str(tmp_path / "benchmark.csv"), "--logs", str(tmp_path)]
    words += ["--settings", settings, "--experiments", "fast", "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "unknown metric 'chamfer'; known: chamfer_mm," in capsys.readouterr().err
