"""In memory the stages make the same as on the command line, to the last bit."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pmni
from pmni.cli.main import main
from pmni.errors import InputError, MissingBackendError
from pmni.io.ply import read_ply
from pmni.io.poses import read_poses

SCENE = {"scene": "blob", "views": 8, "width": 92, "height": 77, "known_poses": True}
REFINE = {"cells": 64, "iterations": [2, 1, 1], "pixels": 300, "device": "cpu"}
TRAIN = {
    "steps": 6, "patches": 32, "device": "cpu",
    "field": {"levels": 2, "log2_entries": 10},
    "rendering": {"occupancy": {"resolution": 32}},
}  # fmt: skip
NOISY = {"method": "noisy", "rotation_noise": 0.5}
NORMALS = "normal_camera_space_GT"


def stage(name: str, settings: object, *words: object) -> None:
    options = ["--settings", json.dumps(settings)] if settings is not None else []
    assert main([name, *map(str, words), *options]) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic dataset and what the command line makes of it."""
    root = tmp_path_factory.mktemp("run")
    data, capture = root / "pebble", root / "capture"
    stage("synthesize", SCENE, "--output", data)
    stage("prepare", None, "--name", "pebble", "--layout", "supernormal", "--path", data,
          "--normals", NORMALS, "--output", capture)  # fmt: skip
    stage("register", NOISY, "--capture", capture, "--output", root / "register")
    initial = root / "register/initial_poses.json"
    stage("refine", REFINE, "--capture", capture, "--poses", initial, "--output", root / "refine")
    stage("mesh", None, "--capture", capture, "--checkpoint", root / "refine/surface.safetensors",
          "--output", root / "mesh.ply")  # fmt: skip
    return root


def test_the_same_as_the_command_line(folder: Path) -> None:
    capture = pmni.Capture.load(folder / "pebble", normals=NORMALS)
    lines: list[str] = []
    result = pmni.reconstruct(
        capture,
        experiment="fast",
        overrides={"registration": NOISY, "refine": REFINE},
        device="cpu",
        progress=lines.append,
    )
    assert result.initial_poses is not None
    initial = read_poses(folder / "register/initial_poses.json")
    np.testing.assert_array_equal(result.initial_poses.c2w, initial.c2w)
    refined = read_poses(folder / "refine/refined_poses.json")
    np.testing.assert_allclose(result.poses.c2w, refined.c2w, atol=1e-12)
    mesh = read_ply(folder / "mesh.ply")
    np.testing.assert_array_equal(result.mesh.faces, mesh.faces)
    np.testing.assert_allclose(result.mesh.vertices, mesh.vertices, atol=1e-4)
    assert "extracting the mesh" in lines
    metrics = result.evaluate(capture).metrics
    assert metrics["chamfer_mm"] < 1
    assert metrics["rotation_error_mean_deg"] < 1


def test_a_trained_network_can_be_saved(folder: Path, tmp_path: Path) -> None:
    capture = pmni.Capture.load(folder / "capture")
    overrides = {"registration": {"method": "reference"}, "train": TRAIN, "heldout": 0.0}
    result = pmni.reconstruct(
        capture, "calibrated-neural", overrides=overrides | {"mesh": {"resolution": 32}},
        device="cpu",
    )  # fmt: skip
    assert result.iteration == TRAIN["steps"]
    result.save(tmp_path)
    points = result.mesh.vertices[::50]
    again = pmni.Reconstruction.load(tmp_path)
    np.testing.assert_array_equal(again.sdf(points), result.sdf(points))


def test_arrays_are_checked(folder: Path) -> None:
    capture = pmni.Capture.load(folder / "capture")
    code = (
        "import numpy as np, pmni; K = np.eye(3); "
        "pmni.Capture(np.zeros((2, 5, 6, 3)), np.zeros((2, 4, 6), bool), K)"
    )  # without the shape checks of the tests
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "InputError: object: masks has shape (2, 4, 6), not (2, 5, 6)" in run.stderr
    flipped = pmni.Capture(capture.normals * [1, 1, -1], capture.masks, capture.intrinsics[0])
    with pytest.raises(InputError, match="object: view 00: "):
        pmni.reconstruct(flipped)
    experiment = pmni.load_experiment("fast", {})
    with pytest.raises(InputError, match="change a named experiment"):
        pmni.reconstruct(capture, experiment, device="cpu")


def test_a_missing_gpu_is_told_before_anything_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lines: list[str] = []
    capture = pmni.Capture.load(folder / "capture")
    with pytest.raises(MissingBackendError, match="PyTorch sees no GPU"):
        pmni.reconstruct(capture, device="cuda", progress=lines.append)
    assert not lines
