"""`pmni train`: files, resuming, selection, errors."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.training import CPU, TINY, Body, changed, sphere_capture, sphere_trainer

from pmni.cli.main import main
from pmni.cli.training_store import load_state, save_state
from pmni.config.training import FieldSettings, TrainSettings
from pmni.data.capture import Capture, save_capture
from pmni.geometry.poses import Poses
from pmni.io.hashing import verify_checksum
from pmni.io.poses import read_poses, write_poses
from pmni.runtime import provenance
from pmni.sdf.checkpoint import load_surface, save_band, save_surface
from pmni.sdf.network import NeuralSDF
from pmni.sdf.residual import ResidualSDF

Stage = tuple[Callable[..., list[str]], Path]
"""The command line of a tiny training, and the folder of its files."""


def write_inputs(folder: Path, capture: Capture, distances: np.ndarray) -> dict[str, Any]:
    """Write capture, ray distances and reference poses; the options that name them."""
    save_capture(folder / "capture", capture)
    (folder / "distances").mkdir()
    file = folder / "distances" / "ray_distance.npz"
    np.savez(file, ray_distance=distances, views=np.array(capture.views))
    assert capture.reference_c2w is not None
    write_poses(folder / "poses.json", Poses(capture.views, capture.reference_c2w))
    return {
        "capture": folder / "capture",
        "ray-distances": folder / "distances",
        "poses": folder / "poses.json",
        "state": folder / "state",
        "output": folder / "out",
    }


def command_line(options: dict[str, Any]) -> list[str]:
    """`train` with options; those that are None are left out."""
    chosen = {key: value for key, value in options.items() if value is not None}
    return ["train", *(str(word) for key, value in chosen.items() for word in (f"--{key}", value))]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """A training of a sphere from its visual hull."""
    inputs = write_inputs(tmp_path, *sphere_capture())

    def command(settings: TrainSettings = TINY, **options: Any) -> list[str]:
        return command_line({**inputs, "settings": settings.model_dump_json(), **options})

    return command, tmp_path


@pytest.fixture
def surface_stage(body: Body, tmp_path: Path) -> Stage:
    """A training that starts from a grid surface."""
    capture, surface = body
    inputs = write_inputs(tmp_path, capture, np.zeros(capture.masks.shape, np.float32))
    save_band(tmp_path / "surface.safetensors", surface)

    def command(settings: TrainSettings, surface: str | None = "surface.safetensors") -> list[str]:
        file = None if surface is None else tmp_path / surface
        options = {"surface": file, "settings": settings.model_dump_json()}
        return command_line({**inputs, **options})

    return command, tmp_path


def test_stage_writes_everything_it_promises(stage: Stage) -> None:
    command, folder = stage
    assert main(command()) == 0
    out = folder / "out"
    for step in (4, 12):
        verify_checksum(out / "checkpoints" / f"iter_{step:08d}.safetensors")
        poses = read_poses(out / "poses" / f"iter_{step:08d}.json")
        assert poses.information["iteration"] == step
    with (out / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert float(rows[-1]["pose_rotation_deg"]) > 0
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["device"] == "cpu"
    assert provenance["backend"] == "torch"
    assert provenance["train_seconds"] > 0
    assert any((out / "tensorboard").iterdir())
    assert not any((folder / "state").iterdir()), "the state is gone when the training is done"


def test_a_training_whose_surface_rests_stops_early_and_says_so(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    command, folder = stage
    settings = changed(TINY, steps=200, checkpoints=[60, 120], convergence={"threshold": 1e3})
    caplog.set_level("INFO")
    assert main(command(settings)) == 0
    assert "stopped at step 100 of 200: in 50 steps the surface has moved by" in caplog.text
    out = folder / "out"
    assert json.loads((out / "provenance.json").read_text())["stopped_at"] == 100
    with (out / "history.csv").open() as file:
        assert int(list(csv.DictReader(file))[-1]["step"]) == 100
    checkpoints = {
        step: out / f"checkpoints/iter_{step:08d}.safetensors" for step in (60, 120, 200)
    }
    early, later, last = (load_surface(path, CPU) for path in checkpoints.values())
    x = torch.rand(50, 3) - 0.5
    assert torch.equal(later(x), last(x))
    assert not torch.equal(early(x), last(x))


def test_a_surface_that_moves_is_trained_on(stage: Stage) -> None:
    command, folder = stage
    settings = changed(TINY, steps=101, checkpoints=[], convergence={"threshold": 1e-9})
    assert main(command(settings)) == 0
    assert "stopped_at" not in json.loads((folder / "out/provenance.json").read_text())


def test_sigterm_saves_and_the_next_run_goes_on(stage: Stage) -> None:
    command, folder = stage
    settings = changed(TINY, steps=150, checkpoints=[], save_every=1000)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pmni", *command(settings)],
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "fitted to the visual hull" in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "state saved at step" in log
    assert not (folder / "out").exists()
    (state,) = (folder / "state").glob("*/state.pt")
    reached = load_state(state, torch.device("cpu"))["trainer"]["step"]
    assert 0 < reached < 150
    again = subprocess.run(
        [sys.executable, "-m", "pmni", *command(settings)],
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    assert f"going on from step {reached} of 150" in again.stderr
    with (folder / "out" / "history.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 150


def test_a_damaged_state_is_a_clear_error(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    command, folder = stage
    assert main(command(changed(TINY, steps=12))) == 0
    inputs = folder / "state"
    # Interrupt by hand: keep a state as a stopped run would.
    trainer = sphere_trainer(TINY)
    fingerprint = provenance.fingerprint(
        "train",
        TINY,
        {
            "capture": folder / "capture" / "capture.npz",
            "ray_distances": folder / "distances" / "ray_distance.npz",
            "poses": folder / "poses.json",
        },
    )
    path = inputs / fingerprint / "state.pt"
    save_state(path, {"trainer": trainer.state(), "rows": [], "seconds": 0.0})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert main(command()) == 2
    assert "state.pt: corrupted" in capsys.readouterr().err


def test_full_disk_is_a_clear_error_and_leaves_nothing(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command, folder = stage
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.suffix == ".safetensors":
            raise OSError(28, "No space left on device", str(self))
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(command()) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (folder / "out").exists()
    assert not list((folder / "state").rglob("*.safetensors"))


def test_errors_of_the_stage(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command, folder = stage
    assert main(command(poses=folder / "none.json")) == 2
    assert "none.json: no such file" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(command(changed(TINY, device="cuda"))) == 2
        assert "PyTorch sees no GPU" in capsys.readouterr().err
    assert main(command(settings=changed(TINY, exclude_views=["77"]))) == 2
    assert "exclude_views names '77'" in capsys.readouterr().err
    np.savez(
        folder / "distances" / "ray_distance.npz", ray_distance=np.zeros((1, 2, 2)), views=["0"]
    )
    assert main(command()) == 2
    assert "made for other views than sphere's" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_the_stage_compares_what_it_was_given_with_what_it_made(surface_stage: Stage) -> None:
    command, folder = surface_stage
    settings = changed(TINY, heldout=0.1, poses={"method": "fixed"})
    assert main(command(settings)) == 0
    selection = json.loads((folder / "out/selection.json").read_text())
    errors = selection["heldout_error_deg"]
    assert list(errors) == ["0", "4", "12"]
    won, spread = selection["heldout_gain_deg"], selection["heldout_gain_standard_error_deg"]
    assert won == pytest.approx(errors["0"] - errors["12"])
    least = max(2 * spread, 1e-3 * errors["0"])
    assert selection["iteration"] == (12 if won > least else 0)
    kept = load_surface(folder / "out/checkpoints/iter_00000012.safetensors", CPU)
    assert isinstance(kept, ResidualSDF)
    poses = read_poses(folder / "out/poses/iter_00000012.json")
    assert poses.information["learned"] is False


def test_a_bad_training_is_not_chosen(surface_stage: Stage) -> None:
    command, folder = surface_stage
    fast = {"learning_rate": 0.3, "encoding_learning_rate": 0.3}
    settings = changed(TINY, heldout=0.1, optimizer=fast, poses={"method": "fixed"})
    assert main(command(settings)) == 0
    selection = json.loads((folder / "out/selection.json").read_text())
    assert selection["iteration"] == 0


def test_without_a_surface_the_last_is_chosen(surface_stage: Stage) -> None:
    command, folder = surface_stage
    assert main(command(changed(TINY, heldout=0.1), surface=None)) == 0
    selection = json.loads((folder / "out/selection.json").read_text())
    assert selection["iteration"] == 12
    assert list(selection["heldout_error_deg"]) == ["4", "12"]


def test_errors_of_the_surface(surface_stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    command, folder = surface_stage
    needed = changed(TINY, warm_start={**TINY.warm_start.model_dump(), "source": "surface"})
    assert main(command(needed, surface=None)) == 2
    assert "there is none: give --surface" in capsys.readouterr().err
    assert main(command(TINY, surface="none.safetensors")) == 2
    assert "none.safetensors: no such file" in capsys.readouterr().err
    field = FieldSettings(levels=2, log2_entries=8)
    save_surface(folder / "network.safetensors", NeuralSDF(field, 0), field, 1)
    assert main(command(TINY, surface="network.safetensors")) == 2
    assert "not a grid surface" in capsys.readouterr().err
