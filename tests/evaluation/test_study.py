"""The accuracy study: which captures it makes, and that its tables show what failed."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pmni.cli.main import main
from pmni.cli.study import tabulate
from pmni.config.experiment import RunConfig, choose_objects
from pmni.config.study import StudySettings
from pmni.errors import InputError

REPOSITORY = Path(__file__).parents[2]
EXPERIMENTS = ("fast", "calibrated")
SETTINGS: dict[str, Any] = {
    "base": {"normal_noise": 4.0, "views": 6},
    "objects": {"ball": {"scene": "blob"}, "knot": {"scene": "knot"}},
    "base_only": {"pot": {"scene": "pot"}},
    "factors": {
        "noise": {
            "title": "noise, deg",
            "levels": {"0": {"normal_noise": 0.0}, "4": {}, "8": {"normal_noise": 8.0}},
        },
        "masks": {"title": "masks, px", "levels": {"0": {}, "1, ragged": {"mask_raggedness": 1.0}}},
    },
}


def study(**changes: Any) -> StudySettings:
    return StudySettings.parse(SETTINGS | changes, "test")


class TestCaptures:
    def test_one_factor_at_a_time(self):
        cells = study().cells()
        assert [cell.name for cell in cells] == [
            "ball-base", "ball-noise-0", "ball-noise-8", "ball-masks-1-ragged",
            "knot-base", "knot-noise-0", "knot-noise-8", "knot-masks-1-ragged", "pot-base",
        ]  # fmt: skip
        worse = cells[3]
        assert worse.levels == {"noise": "4", "masks": "1, ragged"}
        assert worse.changed == ("masks",)
        assert (worse.settings.scene, worse.settings.views) == ("blob", 6)
        assert (worse.settings.normal_noise, worse.settings.mask_raggedness) == (4.0, 1.0)

    def test_full_product_and_seeds(self):
        cells = study(design="full").cells()
        assert len(cells) == 2 * 3 * 2 + 1
        assert "ball-noise-8-masks-1-ragged" in {cell.name for cell in cells}
        twice = study(seeds=[1, 2]).cells()
        assert len(twice) == 2 * len(study().cells())
        assert {cell.settings.seed for cell in twice} == {1, 2}
        assert twice[0].name == "ball-base-seed1"

    def test_without_factors_there_is_the_base_case(self):
        names = [cell.name for cell in study(factors={}).cells()]
        assert names == ["ball-base", "knot-base", "pot-base"]

    def test_they_are_the_objects_of_the_run(self):
        config = RunConfig.parse({"study": SETTINGS}, "test")
        assert RunConfig.parse(config.model_dump(exclude={"scenes"}), "again") == config
        objects = choose_objects(config)
        assert list(objects) == list(config.scenes) == [cell.name for cell in study().cells()]
        exact, noisy = objects["ball-noise-0"], objects["ball-base"]
        assert exact.normals == "normal_camera_space_GT"
        assert noisy.normals == "normal_camera_space_noisy"
        assert noisy.path == "resources/study/ball-base"
        only = RunConfig.parse({"study": SETTINGS, "only": ["pot-base"]}, "test")
        assert list(choose_objects(only)) == ["pot-base"]

    def test_the_studies_in_the_repository(self):
        for path in (REPOSITORY / "config").glob("study*.yaml"):
            config = RunConfig.parse(yaml.safe_load(path.read_text()), str(path))
            assert config.study is not None
            assert not any(cell.settings.known_poses for cell in config.study.cells())

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"base": {"vews": 3}}, "study: ball-base: unknown key 'vews'"),
            ({"factors": {"a": {"title": "", "levels": {"1": {"views": 3}}}}}, "exactly one level"),
            (
                {"factors": {"a": {"title": "", "levels": {"1": {}, "2 px": {"views": 3},
                                                           "2-px": {"views": 4}}}}},
                "two captures would be called 'ball-a-2-px'",
            ),
        ],
    )  # fmt: skip
    def test_errors(self, changes, says):
        with pytest.raises(InputError, match=says):
            study(**changes).cells()


@pytest.fixture
def benchmark() -> pd.DataFrame:
    """Results of all but one; of each, iteration 0 and 1000, of which one is kept."""
    rng = np.random.default_rng(0)
    rows = []
    for cell in study().cells():
        for experiment in EXPERIMENTS:
            if (cell.name, experiment) == ("knot-noise-8", "fast"):
                continue
            for iteration in (0, 1000):
                rows.append(
                    {
                        "dataset": "study", "object": cell.name, "experiment": experiment,
                        "iteration": iteration, "kept": iteration == 0, "source": "ours",
                        "chamfer_mm": 0.2 + 0.1 * rng.random() + 5 * (iteration > 0),
                        "fscore_0.5": 0.9, "fscore_1.0": 0.99, "mae_deg": 3 + rng.random(),
                        "rotation_error_mean_deg": 0.1, "rotation_error_max_deg": 0.2,
                        "total_seconds": 30.0, "device": "A GPU", "commit": "0123abc",
                    }
                )  # fmt: skip
    table = pd.DataFrame(rows)
    lost = (table["object"] == "pot-base") & (table["experiment"] == "fast")
    table.loc[lost, "rotation_error_max_deg"] = 170.0
    return table


@pytest.fixture
def logs(tmp_path) -> Path:
    refused = "10:00:00 register: 6 views\npmni register: error: knot-noise-8: no poses agree\n"
    for experiment, text in (("fast", refused), ("calibrated", "fine\n")):
        path = tmp_path / "logs/register" / experiment / "knot-noise-8.log"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path / "logs"


class TestTable:
    def test_every_capture_and_experiment_has_a_row(self, benchmark, logs):
        table = tabulate(benchmark, study().cells(), EXPERIMENTS, 10.0, logs)
        assert len(table) == 2 * len(study().cells())
        rows = table.set_index(["capture", "experiment"])
        assert (rows["status"] != "ok").sum() == 2
        refused = rows.loc["knot-noise-8", "fast"]
        assert refused["status"] == "failed in register"
        assert refused["reason"] == "knot-noise-8: no poses agree"
        assert np.isnan(refused["chamfer_mm"])
        lost = rows.loc["pot-base", "fast"]
        assert (lost["status"], lost["reason"]) == ("wrong poses", "a camera is 170 degrees off")
        assert rows.loc["ball-noise-0", "fast"]["changed"] == "noise"
        assert rows.loc["ball-noise-0", "fast"]["masks"] == "0"

    def test_the_kept_iteration_counts_else_the_last(self, benchmark, logs):
        cells = study().cells()
        assert tabulate(benchmark, cells, EXPERIMENTS, 10.0, logs)["chamfer_mm"].max() < 1
        unknown = benchmark.drop(columns="kept")
        assert tabulate(unknown, cells, EXPERIMENTS, 10.0, logs)["chamfer_mm"].min() > 5

    def test_a_log_of_a_shared_stage_and_a_traceback(self, benchmark, tmp_path):
        folder = tmp_path / "logs/integrate/knot-noise-8"
        folder.mkdir(parents=True)
        text = "Traceback (most recent call last):\n  File\nMemoryError: too large\n"
        (folder / "normal_camera_space_noisy.log").write_text(text)
        table = tabulate(benchmark, study().cells(), EXPERIMENTS, 10.0, tmp_path / "logs")
        row = table[table["chamfer_mm"].isna()].iloc[0]
        assert (row["status"], row["reason"]) == ("failed in integrate", "MemoryError: too large")

    def test_without_any_result(self, tmp_path):
        empty = pd.DataFrame(columns=["object", "experiment", "iteration", "source", "kept"])
        table = tabulate(empty, study().cells(), EXPERIMENTS, 10.0, tmp_path)
        assert set(table["status"]) == {"not run"}
        assert table["chamfer_mm"].isna().all()


def run(folder: Path, benchmark: pd.DataFrame, logs: Path, *options: str) -> Path:
    benchmark.to_csv(folder / "benchmark.csv", index=False)
    arguments = ["--benchmark", str(folder / "benchmark.csv"), "--logs", str(logs)]
    arguments += ["--settings", json.dumps(SETTINGS), "--experiments", *EXPERIMENTS, *options]
    assert main(["study", *arguments, "--output", str(folder / "out")]) == 0
    return folder / "out"


def test_the_stage_writes_tables_and_plots(tmp_path, benchmark, logs):
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


@pytest.mark.workflow
def test_one_command_plans_all_of_it(tmp_path):
    """The workflow on the study in the repository, without running anything."""
    for name in ("Snakefile", "workflow", "config"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", "--quiet", "rules"]
    command += ["--configfile", "config/study.yaml", "--config", "only=[fish-base,fish-views-5]"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", run.stdout + run.stderr, re.M))
    assert (jobs["synthesize"], jobs["register"], jobs["study"]) == ("2", "6", "1")
    assert not {"train", "report"} & set(jobs)


def test_the_stage_without_results(tmp_path, benchmark):
    out = run(tmp_path, benchmark[:0], tmp_path, "--only", "ball-base", "pot-base")
    assert {path.name for path in out.iterdir()} == {"table.csv", "table.md"}
    assert (out / "table.md").read_text().count("| not run |") == 4
