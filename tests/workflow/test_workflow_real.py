"""A small but real run of the whole workflow: from scenes to the report, with one broken object."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trimesh
import yaml

from pmni.io.poses import read_poses

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = (4, 8)
SCENE = {
    "scene": "blob", "views": 10, "width": 92, "height": 77, "normal_noise": 3.0,
    "known_poses": False,
}  # fmt: skip
TABLE = """object\tdataset\tlayout\tpath\tnormals
pebble\ttiny\tsupernormal\tresources/tiny/pebble\tnormal_camera_space_noisy
broken\tmine\tcustom\tdata/broken\tnormals
"""
CPU = {"device": "cpu"}
SUMMARIES = (
    "From nothing.",
    "From a ring, with a network only.",
    "With reference poses, without a network.",
)
QUICK_VERIFICATION = {
    "pixels": 200, "conjugate_gradients": 10, "coarse_pixels": 100, "coarse_conjugate_gradients": 8,
    "leading": 1, "rounds": 0, "last_rounds": 0,
}  # fmt: skip
FREE = {
    "summary": SUMMARIES[0],
    "registration": {"method": "free", "verification": QUICK_VERIFICATION},
    "refine": {"cells": 64, "iterations": [4, 1, 1], "pixels": 500, **CPU},
    "train": {
        "steps": STEPS[1],
        "checkpoints": [STEPS[0]],
        "patches": 64,
        "field": {"levels": 4, "log2_entries": 12},
        "rendering": {"occupancy": {"resolution": 32}},
        **CPU,
    },
    "mesh": {"resolution": 48, **CPU},
    "render": CPU,
    "evaluate": {"icp": {"points": 2000}},
}  # fmt: skip
RING = {
    "base": "free",
    "summary": SUMMARIES[1],
    "registration": {"method": "ring"},
    "refine": None,
    "train": {"warm_start": {"resolution": 32, "steps": 20, "points": 512}},
}
FIXED = {
    "base": "free",
    "summary": SUMMARIES[2],
    "registration": {"method": "reference"},
    "refine": {"learn_poses": False},
    "train": None,
}
KEPT = {"free": (0, *STEPS), "ring": STEPS, "fixed": (0,)}
"""The iterations that each experiment leaves behind."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a run of three experiments on two objects, one of which has no masks."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("Snakefile", "workflow", "profiles"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "config/experiments").mkdir(parents=True)
    (folder / "config/objects.tsv").write_text(TABLE, encoding="utf-8")
    config = {"experiments": list(KEPT), "published": None, "scenes": {"pebble": SCENE}}
    for path, content in {
        "config.yaml": config,
        "experiments/free.yaml": FREE,
        "experiments/ring.yaml": RING,
        "experiments/fixed.yaml": FIXED,
    }.items():
        (folder / "config" / path).write_text(yaml.safe_dump(content), encoding="utf-8")
    (folder / "data/broken/normals").mkdir(parents=True)
    (folder / "data/broken/normals/00.npy").touch()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    finished = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2"],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return folder, finished


@pytest.mark.workflow
def test_only_the_broken_object_failed(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, finished = run
    assert finished.returncode != 0
    assert finished.stdout.count("Error in rule ") == 1, finished.stdout
    assert "Error in rule prepare" in finished.stdout
    log = (folder / "results/logs/prepare/broken/normals.log").read_text(encoding="utf-8")
    assert log.startswith("pmni prepare: error: data/broken")
    assert len(log.splitlines()) == 1


@pytest.mark.workflow
def test_the_table_has_every_result(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = run
    table = pd.read_csv(folder / "results/benchmark.csv")
    rows = {(row.object, row.experiment, row.iteration) for row in table.itertuples()}
    assert rows == {("pebble", name, step) for name, steps in KEPT.items() for step in steps}
    numbers = ["chamfer_mm", "mae_deg", "rotation_error_mean_deg", "total_seconds"]
    assert np.isfinite(table[numbers].to_numpy(float)).all()
    assert (table["train_seconds"].notna() == (table["iteration"] > 0)).all()
    assert table.groupby("experiment")["kept"].sum().eq(1).all()
    fixed = table[table["experiment"] == "fixed"]
    assert (fixed["rotation_error_cameras_mean_deg"] < 1e-3).all()
    free = table[table["experiment"] == "free"]
    assert (free["rotation_error_mean_deg"] < 2).all()
    assert set(table["device"].notna()) == {True}


@pytest.mark.workflow
def test_every_result_is_there_and_says_where_it_is_from(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = run
    for experiment, steps in KEPT.items():
        own = folder / "results" / experiment / "pebble"
        for step in steps:
            name = f"iter_{step:08d}"
            mesh = trimesh.load_mesh(own / f"meshes/{name}.ply")
            assert len(mesh.faces) > 100
            assert mesh.volume > 0
            poses = f"train/poses/{name}.json" if step else "refine/refined_poses.json"
            assert len(read_poses(own / poses).views) == SCENE["views"]
        assert len(list((own / f"renders/{name}").glob("*.exr"))) == SCENE["views"]
        assert len(read_poses(own / "export/poses.json").views) == SCENE["views"]
        assert (own / "export/cameras.png").stat().st_size > 10_000
        if steps[-1]:
            history = pd.read_csv(own / "train/history.csv")
            assert history["step"].iloc[-1] == STEPS[1]
        if not steps[0]:
            assert len(pd.read_csv(own / "refine/history.csv")) >= 4
    records = list(folder.glob("results/**/*provenance.json"))
    stages = {json.loads(path.read_text(encoding="utf-8"))["stage"] for path in records}
    assert stages == {
        "prepare", "integrate", "register", "refine", "train", "mesh", "render", "evaluate",
        "export",
    }  # fmt: skip
    leftovers = {path.name for path in folder.glob("results/**/.*")}
    assert leftovers <= {".snakemake_timestamp"}


@pytest.mark.workflow
def test_the_report_shows_both_objects(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = run
    page = (folder / "results/report/index.html").read_text(encoding="utf-8")
    for word in ("pebble", "broken", *SUMMARIES):
        assert word in page
    assert "pmni prepare: error: data/broken" in page
