"""Refinement of an analytic scene as a whole: what it finds, leaves alone and writes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.refinement import (
    CPU,
    PIXEL,
    VIEWS,
    blob,
    cameras,
    refined,
    rotation_errors,
    surface_errors,
    wrong_poses,
)

from pmni.cli.main import main
from pmni.data.capture import save_capture
from pmni.geometry.poses import Poses
from pmni.io.poses import read_poses, write_poses
from pmni.sdf.checkpoint import load_surface
from pmni.sdf.narrow_band import NarrowBandSDF


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """The folder of a capture and of wrong poses."""
    folder = tmp_path_factory.mktemp("refine")
    capture, _ = blob()
    save_capture(folder / "capture", capture)
    write_poses(folder / "initial_poses.json", Poses(capture.views, wrong_poses()))
    return folder


def run(inputs: Path, output: Path, poses: str = "initial_poses.json", **settings) -> int:
    given = json.dumps({"device": "cpu", "pixels": 1200} | settings)
    return main(["refine", "--capture", str(inputs / "capture"), "--poses", str(inputs / poses),
                 "--settings", given, "--output", str(output)])  # fmt: skip


@pytest.fixture(scope="module")
def output(inputs) -> Path:
    """Exact normals drift by nothing, so no bias is looked for."""
    folder = inputs / "out"
    assert run(inputs, folder, cells=128, iterations=[6, 8, 5], priors={"bias_field_deg": 0}) == 0
    return folder


def test_wrong_poses_become_right(output: Path) -> None:
    assert rotation_errors(wrong_poses(), cameras()).min() > 1
    errors = rotation_errors(read_poses(output / "refined_poses.json").c2w, cameras())
    assert errors.mean() < 0.15
    assert errors.max() < 0.3


def test_the_surface_is_right_to_a_fraction_of_a_pixel(output: Path) -> None:
    surface = load_surface(output / "surface.safetensors", CPU)
    assert isinstance(surface, NarrowBandSDF)
    assert surface.grid.cells == 128
    errors = surface_errors(surface, blob()[1])
    assert errors.mean() < 0.05 * PIXEL
    assert np.quantile(errors, 0.95) < 0.15 * PIXEL


def test_what_the_stage_leaves(output: Path) -> None:
    files = {path.name for path in output.iterdir()}
    assert files == {
        "refined_poses.json", "surface.safetensors", "surface.safetensors.sha256", "history.csv",
        "provenance.json",
    }  # fmt: skip
    history = pd.read_csv(output / "history.csv")
    assert history.iteration.tolist() == list(range(1, len(history) + 1))
    assert {
        "cells", "seconds", "normal_residual_deg", "contour_residual_px", "rotation_change_deg",
        "normal_tilt_bias",
    } <= set(history.columns)  # fmt: skip
    assert sorted(set(history.cells)) == [64, 128]
    assert history.seconds.is_monotonic_increasing
    first, last = history.normal_residual_deg.iloc[[0, -1]]
    assert last < 1
    assert first > 5
    assert history.normal_tilt_bias.abs().iloc[-1] < 0.01
    provenance = json.loads((output / "provenance.json").read_text())
    assert provenance["stage"] == "refine"
    assert provenance["device"] == "cpu"
    assert provenance["seconds"] > 0


def test_covariances_tell_the_size_of_the_errors(output: Path) -> None:
    poses = read_poses(output / "refined_poses.json")
    assert poses.information["method"] == "refine"
    covariances = np.array([poses.information["covariance"][view] for view in poses.views])
    assert covariances.shape == (VIEWS, 6, 6)
    np.testing.assert_allclose(covariances, covariances.transpose(0, 2, 1), rtol=1e-6, atol=1e-12)
    assert np.linalg.eigvalsh(covariances).min() > 0
    expected = np.rad2deg(np.sqrt(np.trace(covariances[:, :3, :3], axis1=1, axis2=2).mean()))
    found = rotation_errors(poses.c2w, cameras())
    assert 1 / 4 < expected / np.sqrt((found**2).mean()) < 4


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"exclude_views": ["x"]}, "exclude_views names 'x', which is not a view"),
        ({"exclude_views": [f"{view:02d}" for view in range(8)]}, "2 views are too few to refine"),
        ({"cells": 100}, "'cells'"),
        ({"iterations": [6, 8]}, "'iterations.2'"),
        ({"contours": 2}, "'contours'"),
    ],
)
def test_wrong_settings_are_one_line(
    inputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    line: str,
) -> None:
    assert run(inputs, tmp_path, **settings) == 2
    error = capsys.readouterr().err
    assert error.startswith("pmni refine: error: ")
    assert error.count("\n") == 1
    assert line in error
    assert not (tmp_path / "refined_poses.json").exists()


def test_a_missing_pose_is_one_line(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_poses(inputs / "nine.json", Poses(blob()[0].views[:-1], wrong_poses()[:-1]))
    assert run(inputs, tmp_path, poses="nine.json") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no pose for view 09" in error


def test_a_view_without_pose_may_be_excluded(inputs: Path, tmp_path: Path) -> None:
    write_poses(inputs / "nine.json", Poses(blob()[0].views[:-1], wrong_poses()[:-1]))
    quick = {"cells": 32, "iterations": [2, 1, 1], "pixels": 300, "conjugate_gradients": 20}
    code = run(
        inputs, tmp_path, poses="nine.json", exclude_views=["09"], learn_poses=False, **quick
    )
    assert code == 0
    assert read_poses(tmp_path / "refined_poses.json").views == blob()[0].views[:-1]


def test_fixed_poses_do_not_move_and_excluded_views_do_not_count() -> None:
    capture, _ = blob()
    spoilt = replace(capture, normals=capture.normals.copy(), masks=capture.masks.copy())
    spoilt.masks[3] = np.roll(capture.masks[3], 9, axis=1)
    spoilt.normals[3] = np.roll(capture.normals[3], (5, 9), axis=(0, 1))
    results = [
        refined(
            given, cameras(), cells=32, learn_poses=False, exclude_views=["03"],
            iterations=[3, 1, 1], pixels=300, conjugate_gradients=20,
        )[0].state
        for given in (capture, spoilt)
    ]  # fmt: skip
    kept = np.delete(cameras(), 3, axis=0)
    for state in results:
        np.testing.assert_allclose(state.c2w().numpy(), kept, atol=1e-12)
    assert torch.equal(results[0].surface.values, results[1].surface.values)
