"""The stage `evaluate`: files in, metrics and error maps out."""

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from fixtures.evaluation_scene import capture_of, lumpy, reference_poses, rotate_cameras

from pmni.cli.evaluate import cost_of
from pmni.cli.main import main
from pmni.data.capture import save_capture
from pmni.errors import InputError
from pmni.geometry.mesh import Mesh, vertex_normals
from pmni.io.ply import write_ply
from pmni.io.poses import write_poses

GROUND_TRUTH = lumpy()
CAPTURE = capture_of(GROUND_TRUTH)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A capture, a mesh 1 mm too large, poses, and provenance of two stages."""
    save_capture(tmp_path / "capture", CAPTURE)
    larger = Mesh(GROUND_TRUTH.vertices + vertex_normals(GROUND_TRUTH), GROUND_TRUTH.faces)
    write_ply(tmp_path / "mesh.ply", larger)
    write_poses(tmp_path / "poses.json", reference_poses(CAPTURE))
    write_poses(
        tmp_path / "initial.json", rotate_cameras(reference_poses(CAPTURE), np.full(7, 2.0))
    )
    hardware = {"processor": "A processor", "gpu": "A GPU"}
    register = {"stage": "register", "seconds": 2.5, "peak_memory_mb": 900.0, "hardware": hardware}
    train = {"stage": "train", "seconds": 60.25, "peak_memory_mb": 700.0, "hardware": hardware}
    train |= {"device": "cuda:0", "backend": "torch", "commit": "0123abc"}
    (tmp_path / "register.json").write_text(json.dumps(register))
    (tmp_path / "train.json").write_text(json.dumps(train))
    return tmp_path


def command(files: Path, **changed) -> list[str]:
    options = {
        "capture": files / "capture",
        "mesh": files / "mesh.ply",
        "poses": files / "poses.json",
        "initial-poses": files / "initial.json",
        "settings": '{"alignment": "none"}',
        "experiment": "calibrated",
        "iteration": 1000,
        "dataset": "demo",
        "output": files / "metrics/iter_00001000.json",
    } | changed
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    provenance = [str(files / "register.json"), str(files / "train.json")]
    return ["evaluate", *words, "--provenance", *provenance]


def test_the_stage_writes_metrics_and_maps(files: Path) -> None:
    assert main(command(files)) == 0
    row = json.loads((files / "metrics/iter_00001000.json").read_text())
    identity = [row[key] for key in ("dataset", "object", "experiment", "iteration", "source")]
    assert identity == ["demo", "lump", "calibrated", 1000, "ours"]
    # points lie 3 mm apart here, so the nearest is not straight opposite
    assert 1.0 < row["chamfer_mm"] < 1.5
    assert row["rotation_error_initial_mean_deg"] == pytest.approx(2)
    assert (row["train_seconds"], row["total_seconds"]) == (60.25, 62.75)
    assert (row["peak_memory_mb"], row["device"], row["backend"]) == (900.0, "A GPU", "torch")
    assert row["commit"] == "0123abc"
    maps = np.load(files / "metrics/iter_00001000.errors.npz")
    assert maps["views"].tolist() == list(CAPTURE.views)
    assert maps["normal_error_deg"].dtype == np.float16
    assert maps["normal_error_deg"].shape == CAPTURE.masks.shape
    assert maps["surface_distance_mm"].shape == maps["seen"].shape == (len(GROUND_TRUTH.vertices),)
    assert np.median(maps["surface_distance_mm"]) == pytest.approx(1, abs=0.05)
    said = json.loads((files / "metrics/iter_00001000.provenance.json").read_text())
    assert said["stage"] == "evaluate"
    assert set(said["inputs"]) == {"capture", "mesh", "poses", "initial_poses"}


def test_any_mesh_can_be_scored_without_poses(files: Path) -> None:
    trimesh.Trimesh(GROUND_TRUTH.vertices, GROUND_TRUTH.faces).export(files / "other.obj")
    words = ["evaluate", "--capture", str(files / "capture"), "--mesh", str(files / "other.obj")]
    words += ["--settings", "{alignment: none}", "--output", str(files / "other.json")]
    assert main(words) == 0
    row = json.loads((files / "other.json").read_text())
    assert row["chamfer_mm"] < 1e-4
    assert row["train_seconds"] is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mesh": "absent.ply"}, "absent.ply: no such file"),
        ({"mesh": "broken.ply"}, "broken.ply: cannot be read as a mesh"),
        ({"poses": "broken.ply"}, "broken.ply: not a pose file"),
        ({"settings": "{alignmant: none}"}, "unknown key 'alignmant'"),
        ({"settings": "{alignment: best}"}, "'alignment'"),
    ],
)
def test_the_stage_leaves_nothing_when_it_fails(
    files: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, str], message: str
) -> None:
    (files / "broken.ply").write_text("ply\nformat none\n")
    named = {key: value if key == "settings" else files / value for key, value in changed.items()}
    assert main(command(files, **named)) == 2
    assert message in capsys.readouterr().err
    assert not (files / "metrics").exists()


def test_cost_of_stages(files: Path) -> None:
    assert set(cost_of([]).values()) == {None}
    cpu = json.loads((files / "train.json").read_text()) | {"device": "cpu"}
    (files / "cpu.json").write_text(json.dumps(cpu))
    assert cost_of([files / "cpu.json"])["device"] == "A processor"
    assert cost_of([files / "register.json"])["train_seconds"] is None
    refined = json.loads((files / "train.json").read_text())
    refined |= {"stage": "refine", "seconds": 5.5, "device": "cpu"}
    (files / "refine.json").write_text(json.dumps(refined))
    alone = cost_of([files / "refine.json"])
    assert (alone["refine_seconds"], alone["train_seconds"]) == (5.5, None)
    assert alone["device"] == "A processor"
    both = cost_of([files / "refine.json", files / "train.json"])
    assert (both["refine_seconds"], both["total_seconds"]) == (5.5, 65.75)
    assert both["device"] == "A GPU"  # of the training


@pytest.mark.parametrize(("name", "message"), [("no.json", "cannot be read"), ("bad", "not a pro")])
def test_provenance_that_cannot_be_read(files: Path, name: str, message: str) -> None:
    (files / "bad").write_text("{")
    with pytest.raises(InputError, match=f"{name}: {message}"):
        cost_of([files / name])
