"""Meshes on disk, and the `mesh` stage from a checkpoint to a file."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from fixtures.analytic_sdfs import Analytic, sphere

from pmni.cli.main import main
from pmni.data.capture import Capture, save_capture
from pmni.errors import InputError
from pmni.geometry.mesh import Mesh
from pmni.io.ply import read_ply, write_ply

MESH = Mesh(
    np.array([[0.0, 0, 0], [1.5, 0, 0], [0, 2.25, 0], [0, 0, 1]]),
    np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]),
)


def test_ply_comes_back_as_it_was(tmp_path):
    write_ply(tmp_path / "m.ply", MESH)
    for read in (
        read_ply(tmp_path / "m.ply"),
        trimesh.load(tmp_path / "m.ply", process=False),
    ):
        np.testing.assert_array_equal(read.vertices, MESH.vertices)
        np.testing.assert_array_equal(read.faces, MESH.faces)


def test_ply_may_be_empty(tmp_path):
    write_ply(tmp_path / "m.ply", Mesh(np.zeros((0, 3)), np.zeros((0, 3), int)))
    assert read_ply(tmp_path / "m.ply").faces.shape == (0, 3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "truncated"),
        (lambda data: data + b"x", "truncated"),
        (lambda data: b"ply\nformat ascii 1.0\n", "not a mesh written by"),
        (lambda data: b"", "not a mesh written by"),
        (lambda data: data[:40], "not a mesh written by"),
    ],
)
def test_damaged_ply(tmp_path, damage, message):
    path = tmp_path / "m.ply"
    write_ply(path, MESH)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=message) as error:
        read_ply(path)
    assert str(path) in str(error.value)


def test_missing_ply(tmp_path):
    with pytest.raises(InputError, match=r"m\.ply: cannot be read \(No such file"):
        read_ply(tmp_path / "m.ply")


@pytest.fixture
def capture(tmp_path):
    masks = np.ones((1, 2, 2), bool)
    normals = np.zeros((1, 2, 2, 3), np.float32)
    normals[..., 2] = -1
    save_capture(
        tmp_path / "capture",
        Capture(
            normals, masks, np.eye(3)[None], ("00",), "ball", None, 50.0, np.array([1, 2, 3.0])
        ),
    )
    return tmp_path / "capture"


def use_surface(monkeypatch, surface):
    module = SimpleNamespace(load_surface=lambda path, device: surface)
    monkeypatch.setitem(sys.modules, "pmni.sdf.checkpoint", module)


def mesh_command(capture, tmp_path, settings='{"resolution": 48, "device": "cpu"}'):
    (tmp_path / "iter_00000010.safetensors").write_bytes(b"weights")
    return [
        *("mesh", "--capture", str(capture), "--settings", settings),
        *("--checkpoint", str(tmp_path / "iter_00000010.safetensors")),
        *("--output", str(tmp_path / "meshes/iter_00000010.ply")),
    ]


def test_the_stage_writes_a_mesh_in_dataset_units(monkeypatch, tmp_path, capture):
    use_surface(monkeypatch, sphere(0.6))
    assert main(mesh_command(capture, tmp_path)) == 0
    mesh = read_ply(tmp_path / "meshes/iter_00000010.ply")
    radius = np.linalg.norm(mesh.vertices - [1, 2, 3], axis=1)
    np.testing.assert_allclose(radius, 30, atol=0.1)
    said = json.loads((tmp_path / "meshes/iter_00000010.provenance.json").read_text())
    assert (said["stage"], said["extractor"], said["device"]) == ("mesh", "marching_cubes", "cpu")
    assert (said["components"], said["box_edges"]) == (1, 0)
    assert said["vertices"] == len(mesh.vertices)
    assert set(said["inputs"]) == {"capture", "checkpoint"}


@pytest.mark.parametrize(
    ("surface", "message"),
    [
        (Analytic(lambda x: x[:, 0] * 0 + 1), "no surface"),
        (Analytic(lambda x: x[:, 0] * torch.nan), "values that are not finite"),
    ],
)
def test_the_stage_leaves_nothing_when_it_fails(
    monkeypatch, tmp_path, capture, capsys, surface, message
):
    use_surface(monkeypatch, surface)
    assert main(mesh_command(capture, tmp_path)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "meshes").exists()


def test_the_stage_warns_of_an_open_surface(monkeypatch, tmp_path, capture, caplog):
    use_surface(monkeypatch, sphere(1.2))
    assert main(mesh_command(capture, tmp_path)) == 0
    assert "leaves the box" in caplog.text


def test_mesh_and_render_import_nothing_heavy():
    check = (
        "import sys; import pmni.cli.mesh, pmni.cli.render;"
        "heavy = {'cv2', 'trimesh', 'open3d', 'pandas', 'matplotlib', 'pyexr', 'embreex'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", check], check=True, capture_output=True, text=True
    )
    assert finished.stdout == "\n"


@pytest.mark.parametrize("observed", [None, np.array([True, False, True])])
def test_ply_keeps_what_was_observed(tmp_path, observed):
    vertices = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0.5]])
    write_ply(tmp_path / "m.ply", Mesh(vertices, np.int32([[0, 1, 2]]), observed))
    back = read_ply(tmp_path / "m.ply")
    assert np.array_equal(back.vertices, vertices)
    assert np.array_equal(back.faces, [[0, 1, 2]])
    assert (back.observed is None) if observed is None else np.array_equal(back.observed, observed)
    loaded = trimesh.load(tmp_path / "m.ply", process=False)
    assert np.array_equal(loaded.vertices, vertices)
