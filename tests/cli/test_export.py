"""The stage `export`: files in, files out."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from fixtures.capture_files import OFFSET, SCALE, spheres, write_supernormal
from fixtures.export_formats import (
    GAUGE,
    read_colmap,
    spheres_capture,
)
from fixtures.readers import read_capture

from pmni.cli.export import Result, choose
from pmni.cli.main import main
from pmni.config.extensions import EXPORTERS
from pmni.data.capture import save_capture
from pmni.errors import InputError
from pmni.exporting import Exporter, ExportScene
from pmni.geometry.mesh import Mesh
from pmni.geometry.poses import Poses
from pmni.io.ply import write_ply
from pmni.io.poses import read_poses, write_poses


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A capture, a result that lies in its own frame, where it began, and a mesh."""
    capture = spheres_capture()
    save_capture(tmp_path / "capture", capture)
    assert capture.reference_c2w is not None
    write_poses(tmp_path / "poses.json", Poses(capture.views, capture.reference_c2w))
    start = GAUGE.move_cameras(capture.reference_c2w)
    write_poses(tmp_path / "initial.json", Poses(capture.views, start))
    mesh = spheres().mesh
    write_ply(tmp_path / "mesh.ply", Mesh(np.asarray(mesh.vertices), np.asarray(mesh.faces)))
    return tmp_path


def export(folder: Path, *more: str, poses: str = "poses.json") -> int:
    command = ["export", "--capture", str(folder / "capture"), "--poses", str(folder / poses)]
    return main([*command, *more, "--output", str(folder / "out")])


def test_the_exports_are_a_data_set_that_the_project_reads(run_folder: Path) -> None:
    more = ["--mesh", str(run_folder / "mesh.ply"), "--points", "500"]
    assert export(run_folder, *more, "--initial-poses", str(run_folder / "initial.json")) == 0
    out = run_folder / "out"
    capture, _ = read_capture("supernormal", out, "ball", "normal_camera_space")
    scene = spheres()
    assert capture.views == ("00", "01", "02", "03", "04")
    assert np.array_equal(capture.masks, scene.masks)
    assert np.abs(capture.normals - scene.normals).max() < 1e-4
    np.testing.assert_allclose(capture.intrinsics, np.tile(scene.K, (5, 1, 1)), atol=1e-8)
    assert capture.reference_c2w is not None
    np.testing.assert_allclose(capture.reference_c2w, scene.normalised_c2w, atol=1e-9)
    assert capture.scale == SCALE
    np.testing.assert_allclose(capture.offset, OFFSET)

    poses = read_poses(out / "poses.json")
    np.testing.assert_allclose(poses.c2w, scene.c2w, atol=1e-9)
    np.testing.assert_allclose(poses.information["intrinsics"]["00"], scene.K)
    assert poses.information["image_size"] == [56, 48]
    found, models, points = read_colmap(out / "sparse/0")
    assert len(found) == 5
    assert len(models) == 1
    assert len(points) == 500
    content = json.loads((out / "transforms.json").read_text())
    for frame in content["frames"]:
        for key in ("file_path", "mask_path", "normal_file_path"):
            assert (out / frame[key]).is_file()
    assert (out / content["ply_file_path"]).is_file()
    assert (out / "cameras.png").read_bytes().startswith(b"\x89PNG")
    said = json.loads((out / "provenance.json").read_text())
    assert (said["stage"], said["views"], said["points"]) == ("export", 5, 500)
    assert said["left_out"] == {}


def test_a_data_set_that_lost_its_cameras_is_completed(run_folder: Path, tmp_path: Path) -> None:
    assert export(run_folder) == 0
    folder = write_supernormal(tmp_path / "lost", spheres(), cameras=False)
    bare, _ = read_capture("supernormal", folder, "ball", "normal_camera_space_x")
    assert bare.reference_c2w is None
    exported = (run_folder / "out/cameras_sphere.npz").read_bytes()
    (folder / "cameras_sphere.npz").write_bytes(exported)
    for normals in ("normal_camera_space_x", "normal_world_space_x"):
        capture, _ = read_capture("supernormal", folder, "ball", normals)
        assert capture.reference_c2w is not None
        np.testing.assert_allclose(capture.reference_c2w, spheres().normalised_c2w, atol=1e-9)


def test_without_mesh_and_reference_and_with_some_of_the_views(tmp_path: Path) -> None:
    capture = spheres_capture(reference=False)
    save_capture(tmp_path / "capture", capture)
    c2w = spheres().normalised_c2w[[3, 1]]
    write_poses(tmp_path / "poses.json", Poses(("03", "01"), c2w))
    assert export(tmp_path) == 0
    back = read_poses(tmp_path / "out/poses.json")
    assert back.views == ("01", "03")
    np.testing.assert_allclose(back.c2w, c2w[::-1], atol=1e-12)
    again, _ = read_capture("supernormal", tmp_path / "out", "ball", "normal_camera_space")
    assert again.views == ("01", "03")
    assert again.scale == 1
    assert not (tmp_path / "out/points.ply").exists()
    assert "ply_file_path" not in (tmp_path / "out/transforms.json").read_text()


def test_one_camera_has_a_figure_too(run_folder: Path) -> None:
    write_poses(run_folder / "one.json", Poses(("02",), spheres().normalised_c2w[2:3]))
    assert export(run_folder, poses="one.json") == 0


@pytest.mark.parametrize(("iteration", "chosen"), [(0, 0), (200, 1)])
def test_the_selected_candidate_is_exported(tmp_path: Path, iteration: int, chosen: int) -> None:
    (tmp_path / "selection.json").write_text(json.dumps({"iteration": iteration}))
    poses, meshes = [Path("a.json"), Path("b.json")], [Path("a.ply"), Path("b.ply")]
    result = choose(poses, meshes, [0, 200], tmp_path / "selection.json")
    assert result == Result(poses[chosen], meshes[chosen], iteration)


def test_the_stage_leaves_out_what_cannot_hold_the_cameras_and_says_so(
    run_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    capture = spheres_capture()
    capture.intrinsics[:, 0, 1] = 0.5
    save_capture(run_folder / "capture", capture)
    with caplog.at_level("WARNING"):
        assert export(run_folder) == 0
    assert not (run_folder / "out/sparse").exists()
    assert not (run_folder / "out/transforms.json").exists()
    assert (run_folder / "out/cameras_sphere.npz").exists()
    assert "sparse is left out: view 00: K has a skew" in caplog.text
    left_out = json.loads((run_folder / "out/provenance.json").read_text())["left_out"]
    assert sorted(left_out) == ["sparse", "transforms.json"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mesh", "{}/no.ply"], r"no\.ply: not a mesh"),
        (["--points", "0"], "--points: 'points': Input should be greater than or equal to 1"),
        (["--initial-poses", "{}/other.json"], r"other\.json: has no pose of any view of 'ball'"),
        (["--initial-poses", "{}/no.json"], r"no\.json: cannot be read"),
        (["--selection", "{}/s.json"], "several --poses need --iterations and --selection"),
        (["--selection", "{}/s.json", "--iterations", "0"], r"s\.json: 'iteration' must be one of"),
        (["--selection", "{}/no.json", "--iterations", "0"], r"no\.json: cannot be read"),
        (["--iterations", "0", "1"], "--iterations: 2 numbers for the 1 of --poses"),
        (["--mesh", "a.ply", "b.ply"], "--mesh: 2 files for the 1 of --poses"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    run_folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    write_poses(run_folder / "other.json", Poses(("x",), np.eye(4)[None]))
    (run_folder / "s.json").write_text('{"iteration": 7}')
    assert export(run_folder, *(word.format(run_folder) for word in more)) == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])
    assert not (run_folder / "out").exists()


class TestChosenFormats:
    def test_formats_that_others_refer_to_are_written_too(self, run_folder: Path) -> None:
        mesh = ["--mesh", str(run_folder / "mesh.ply")]
        settings = "{formats: [nerfstudio], figure: false, points: 70}"
        assert export(run_folder, *mesh, "--settings", settings) == 0
        files = {path.name for path in (run_folder / "out").iterdir()}
        folders = {"normal_camera_space", "mask"}
        assert files == folders | {"transforms.json", "points.ply", "provenance.json"}
        points: Any = trimesh.load(run_folder / "out/points.ply")
        assert len(points.vertices) == 70

    def test_an_unknown_format_is_an_error(
        self, run_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert export(run_folder, "--settings", "{formats: [alembic]}") == 2
        assert "unknown exporter 'alembic'; known: supernormal, poses" in capsys.readouterr().err

    def test_a_format_of_another_package(
        self, run_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that writes the camera centres as text, and cannot hold more than one view."""

        def write(folder: Path, scene: ExportScene) -> None:
            if len(scene.cameras.views) > 1:
                raise InputError("holds one view")
            np.savetxt(folder / "centres.txt", scene.cameras.c2w[:, :3, 3])

        centres = Exporter(output="centres.txt", software="gnuplot", omits="rotations", write=write)
        monkeypatch.setattr(EXPORTERS, "_added", {})
        EXPORTERS.register("centres", centres)
        c2w = spheres().normalised_c2w[2:3]
        write_poses(run_folder / "one.json", Poses(("02",), c2w))
        assert export(run_folder, poses="one.json") == 0
        centre = np.loadtxt(run_folder / "out/centres.txt")
        np.testing.assert_allclose(centre, spheres().c2w[2, :3, 3])
        (run_folder / "out").rename(run_folder / "first")
        assert export(run_folder, "--settings", "{formats: [centres]}") == 0
        said = json.loads((run_folder / "out/provenance.json").read_text())
        assert said["left_out"] == {"centres.txt": "holds one view"}
