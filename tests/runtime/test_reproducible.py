"""`deterministic: true`: the same run again has the same results, bit for bit."""

import json
from contextlib import suppress

import numpy as np
import pytest
import torch
from fixtures.refinement import blob, wrong_poses
from fixtures.training import TINY, changed

from pmni.cli.main import main
from pmni.data.capture import save_capture
from pmni.geometry.poses import Poses
from pmni.io.poses import write_poses
from pmni.runtime.determinism import deterministic

REFINE = {
    "deterministic": True, "heldout": 0.1, "cells": 64, "coarsest_cells": 32,
    "iterations": [2, 1, 1], "pixels": 500, "conjugate_gradients": 10,
}  # fmt: skip


def test_sums_are_in_order_within_the_block_only() -> None:
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
    with suppress(ValueError), deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        raise ValueError
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
            ],
        ),
    ],
)
def test_a_refinement_and_a_training_from_it_are_the_same_again(device, tmp_path) -> None:
    capture, _ = blob()
    save_capture(tmp_path / "capture", capture)
    (tmp_path / "distances").mkdir()
    np.savez(
        tmp_path / "distances/ray_distance.npz",
        ray_distance=np.zeros(capture.masks.shape, np.float32),
        views=capture.views,
    )
    write_poses(tmp_path / "start.json", Poses(capture.views, wrong_poses()))
    train = changed(
        TINY, deterministic=True, device=device, heldout=0.1,
        poses={"method": "gauss_newton", "every": 5},
    )  # fmt: skip

    def results(name: str) -> dict[str, bytes]:
        given, made = ["--capture", str(tmp_path / "capture")], tmp_path / name
        refined = [f"{made}/refine/refined_poses.json", f"{made}/refine/surface.safetensors"]
        settings = json.dumps(REFINE | {"device": device})
        start = ["--poses", str(tmp_path / "start.json"), "--settings", settings]
        assert main(["refine", *given, *start, "--output", f"{made}/refine"]) == 0
        given += ["--ray-distances", str(tmp_path / "distances")]
        given += ["--poses", refined[0], "--surface", refined[1]]
        given += ["--settings", train.model_dump_json(), "--state", f"{made}/state"]
        assert main(["train", *given, "--output", f"{made}/train"]) == 0
        files = [*made.glob("refine/refined*"), *made.glob("**/*.safetensors")]
        files += [*made.glob("**/*.sha256"), *made.glob("train/poses/*")]
        return {str(file.relative_to(made)): file.read_bytes() for file in files}

    first, again = results("first"), results("again")
    assert len(first) >= 6
    assert first == again
