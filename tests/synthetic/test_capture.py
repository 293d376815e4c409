"""`pmni synthesize`: the folder it writes, and the errors it gives."""

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import trimesh

from pmni.cli.main import main
from pmni.geometry.cameras import pixel_grid, ray_directions
from pmni.io.images import read_mask, read_normal_map
from pmni.synthetic import capture, writer
from pmni.synthetic.noise import angle_between
from pmni.synthetic.writer import DatasetFolder

SETTINGS = {
    "scene": "blob", "views": 4, "height": 64, "width": 76,
    "pose_jitter": 1.0, "normal_noise": 5.0, "seed": 7,
}  # fmt: skip
FLIP = np.array([1, -1, -1])


def run(output: Path, **changes: Any) -> int:
    settings = json.dumps(SETTINGS | changes)
    return main(["synthesize", "--settings", settings, "--output", str(output)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("made") / "blob"
    assert run(output) == 0
    return output


@pytest.fixture(scope="module")
def scene(folder: Path) -> dict:
    return json.loads((folder / "scene.json").read_text())


@pytest.fixture(scope="module")
def poses(scene: Any) -> np.ndarray:
    return np.array(scene["poses_c2w"])


class TestLayout:
    def test_files(self, folder: Path) -> None:
        made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        images = {
            f"{kind}/{view:02d}.{suffix}"
            for view in range(4)
            for kind, suffix in (
                ("mask", "png"),
                ("normal_camera_space_GT", "exr"), ("normal_world_space_GT", "exr"),
                ("normal_camera_space_noisy", "exr"), ("normal_world_space_noisy", "exr"),
                ("integration/depth", "npy"), ("integration/perspective", "npy"),
            )
        }  # fmt: skip
        assert made == images | {
            "K.txt", "cameras_sphere.npz", "mesh_Gt.ply", "scene.json", "provenance.json",
            "gt/depth.npz", "gt/scene.json",
        }  # fmt: skip

    def test_cameras_decompose_into_the_poses(self, folder: Path, scene: Any, poses: Any) -> None:
        K = np.loadtxt(folder / "K.txt")
        np.testing.assert_allclose(K, scene["intrinsics"])
        with np.load(folder / "cameras_sphere.npz") as cameras:
            assert len(cameras) == 8
            for view in range(4):
                scale_mat = cameras[f"scale_mat_{view}"]
                np.testing.assert_allclose(scale_mat, np.diag([100, 100, 100, 1]))
                projection = (cameras[f"world_mat_{view}"] @ scale_mat)[:3]
                found, rotation, centre = cv2.decomposeProjectionMatrix(projection)[:3]
                np.testing.assert_allclose(found / found[2, 2], K, atol=1e-8)
                np.testing.assert_allclose(rotation.T, poses[view, :3, :3], atol=1e-12)
                centre = 100 * (centre[:3] / centre[3])[:, 0]
                np.testing.assert_allclose(centre, poses[view, :3, 3], atol=1e-8)

    def test_the_object_is_in_the_unit_sphere(self, folder: Path, scene: Any) -> None:
        mesh: Any = trimesh.load(folder / "mesh_Gt.ply", process=False)
        reach = np.linalg.norm(mesh.vertices, axis=1).max()
        assert reach == pytest.approx(80, abs=1e-3)
        assert scene["scene_radius"] == 100
        assert scene["unit"] == "mm"

    def test_exact_normals_agree_in_both_frames(self, folder: Path, poses: Any) -> None:
        for view in range(4):
            mask = read_mask(folder / f"mask/{view:02d}.png")
            camera = read_normal_map(folder / f"normal_camera_space_GT/{view:02d}.exr")
            world = read_normal_map(folder / f"normal_world_space_GT/{view:02d}.exr")
            np.testing.assert_allclose((camera * FLIP) @ poses[view, :3, :3].T, world, atol=1e-6)
            np.testing.assert_allclose(np.linalg.norm(camera, axis=-1), mask, atol=1e-6)
            assert camera[mask][:, 2].min() > -0.1  # z towards the camera
            rows = np.nonzero(mask)[0]
            assert camera[mask][rows == rows.min()][:, 1].min() > 0.5  # y up

    def test_depth_is_metric_in_gt_and_scaled_by_a_factor_in_integration(
        self, folder: Path, scene: Any, poses: Any
    ) -> None:
        with np.load(folder / "gt/depth.npz") as archive:
            depths = archive["depth"]
        truth = json.loads((folder / "gt/scene.json").read_text())
        np.testing.assert_array_equal(truth["poses_c2w"], poses)
        factors = np.array(truth["depth_scales"])
        assert (np.abs(factors - 1) <= 0.03).all()
        assert factors.std() > 0.001
        rays = ray_directions(pixel_grid(64, 76), np.linalg.inv(np.array(scene["intrinsics"])))
        for view in range(4):
            mask = read_mask(folder / f"mask/{view:02d}.png")
            z = np.load(folder / f"integration/depth/{view:02d}.npy")
            along = np.load(folder / f"integration/perspective/{view:02d}.npy")
            assert z.dtype == along.dtype == np.float32
            for image in (z, along, depths[view]):
                np.testing.assert_array_equal(np.isfinite(image), mask)
            np.testing.assert_allclose(z[mask] * 100 / factors[view], depths[view][mask], rtol=1e-6)
            np.testing.assert_allclose((along * rays[..., 2])[mask], z[mask], rtol=1e-6)

    def test_depth_puts_pixels_on_the_mesh(self, folder: Path, scene: Any, poses: Any) -> None:
        mesh: Any = trimesh.load(folder / "mesh_Gt.ply", process=False)
        with np.load(folder / "gt/depth.npz") as archive:
            depths = archive["depth"]
        rays = ray_directions(pixel_grid(64, 76), np.linalg.inv(np.array(scene["intrinsics"])))
        for view in range(4):
            points = (depths[view] / rays[..., 2])[..., None] * rays
            points = points[np.isfinite(depths[view])] @ poses[view, :3, :3].T + poses[view, :3, 3]
            nearest = mesh.kdtree.query(points)[1]
            height = ((points - mesh.vertices[nearest]) * mesh.vertex_normals[nearest]).sum(1)
            assert np.abs(height).max() < 0.05

    def test_noisy_normals_are_off_by_the_mean_angle(self, folder: Path, poses: Any) -> None:
        for view in range(4):
            mask = read_mask(folder / f"mask/{view:02d}.png")
            kinds = ("GT", "noisy")
            true, wrong = (
                read_normal_map(folder / f"normal_camera_space_{kind}/{view:02d}.exr")[mask]
                for kind in kinds
            )
            error = np.rad2deg(angle_between(true.astype(float), wrong.astype(float)))
            assert error.mean() == pytest.approx(5, rel=0.01)
            world = read_normal_map(folder / f"normal_world_space_noisy/{view:02d}.exr")[mask]
            np.testing.assert_allclose((wrong * FLIP) @ poses[view, :3, :3].T, world, atol=2e-3)

    def test_the_mesh_carries_exact_normals(self, folder: Path) -> None:
        mesh: Any = trimesh.load(folder / "mesh_Gt.ply", process=False)
        stored = mesh.vertex_normals
        computed = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).vertex_normals
        assert np.rad2deg(np.median(angle_between(np.array(stored), np.array(computed)))) < 0.2
        assert len(mesh.faces) > 70_000

    def test_provenance(self, folder: Path) -> None:
        provenance = json.loads((folder / "provenance.json").read_text())
        assert provenance["stage"] == "synthesize"
        assert provenance["settings"]["seed"] == 7
        assert provenance["inputs"] == {}


class TestRuns:
    def test_the_same_settings_give_the_same_capture(self, folder: Path, tmp_path: Path) -> None:
        assert run(tmp_path / "again") == 0
        for path in folder.rglob("*"):
            if path.is_file() and path.name != "provenance.json":
                other = tmp_path / "again" / path.relative_to(folder)
                if path.suffix == ".exr":  # its header holds the time
                    np.testing.assert_array_equal(read_normal_map(path), read_normal_map(other))
                elif path.suffix != ".npz":
                    assert path.read_bytes() == other.read_bytes(), path

    def test_noise_and_cameras_have_streams_of_their_own(
        self, folder: Path, tmp_path: Path, poses: Any
    ) -> None:
        assert run(tmp_path / "exact", normal_noise=0) == 0
        exact = json.loads((tmp_path / "exact/scene.json").read_text())
        np.testing.assert_array_equal(exact["poses_c2w"], poses)
        assert not (tmp_path / "exact/normal_camera_space_noisy").exists()
        assert run(tmp_path / "other", seed=8, views=2) == 0
        other = json.loads((tmp_path / "other/scene.json").read_text())
        assert np.abs(np.array(other["poses_c2w"]) - poses[:2]).max() > 0.1

    def test_random_poses_and_many_views(self, tmp_path: Path) -> None:
        assert run(tmp_path / "many", poses="random", views=101, height=20, width=24) == 0
        names = sorted(path.name for path in (tmp_path / "many/mask").iterdir())
        assert (names[0], names[-1], len(names)) == ("000.png", "100.png", 101)

    def test_a_mesh_file(self, folder: Path, tmp_path: Path) -> None:
        """The blob's own mesh gives the blob's capture again."""
        source = tmp_path / "source.ply"
        source.write_bytes((folder / "mesh_Gt.ply").read_bytes())
        assert run(tmp_path / "copy", scene=str(source)) == 0
        provenance = json.loads((tmp_path / "copy/provenance.json").read_text())
        assert provenance["inputs"]["mesh"]["file"] == "source.ply"
        for view in range(4):
            masks = [read_mask(f / f"mask/{view:02d}.png") for f in (folder, tmp_path / "copy")]
            assert (masks[0] ^ masks[1]).sum() <= 2
            both = masks[0] & masks[1]
            name = f"normal_camera_space_GT/{view:02d}.exr"
            a, b = (
                read_normal_map(f / name)[both].astype(float) for f in (folder, tmp_path / "copy")
            )
            assert np.rad2deg(np.median(angle_between(a, b))) < 0.1
            name = f"integration/perspective/{view:02d}.npy"
            near, far = (np.load(f / name)[both] for f in (folder, tmp_path / "copy"))
            assert np.median(np.abs(near - far)) * 100 < 0.01

    def test_replaces_its_own_output(self, tmp_path: Path) -> None:
        small = {"views": 2, "height": 32, "width": 40, "normal_noise": 0}
        assert run(tmp_path / "out", **small) == 0
        (tmp_path / "out/left.txt").write_text("from the first run")
        assert run(tmp_path / "out", **small) == 0
        assert not (tmp_path / "out/left.txt").exists()


class TestErrors:
    def line(self, capsys: pytest.CaptureFixture[str]) -> str:
        error = capsys.readouterr().err
        assert error.startswith("pmni synthesize: error: ")
        assert error.count("\n") == 1
        return error

    def test_unknown_scene_lists_the_known_ones(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(tmp_path / "out", scene="cat") == 2
        assert (
            "scene 'cat': neither a known scene (blob, fish, heron, knot, pot, shell) nor a mesh"
            in self.line(capsys)
        )

    def test_missing_mesh(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(tmp_path / "out", scene=str(tmp_path / "gone.ply")) == 2
        assert "gone.ply" in self.line(capsys)

    def test_empty_mesh(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "empty.obj").write_text("# nothing\n")
        assert run(tmp_path / "out", scene=str(tmp_path / "empty.obj")) == 2
        assert "empty.obj: has no triangles" in self.line(capsys)
        assert os.listdir(tmp_path) == ["empty.obj"]

    def test_an_object_that_leaves_the_image(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(tmp_path / "out", radius=130.0) == 2
        assert "reaches the image border" in self.line(capsys)
        assert os.listdir(tmp_path) == []

    def test_unknown_setting(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(tmp_path / "out", sceen="blob") == 2
        assert "unknown key 'sceen'" in self.line(capsys)

    def test_a_folder_with_something_else_is_left_alone(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "thesis.tex").write_text("years of work")
        assert run(tmp_path) == 2
        assert "is not a synthetic capture" in self.line(capsys)
        assert os.listdir(tmp_path) == ["thesis.tex"]

    def test_a_failure_half_way_leaves_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also what was there before stays."""
        small = {"views": 3, "height": 32, "width": 40, "normal_noise": 0}
        assert run(tmp_path / "out", **small) == 0
        before = (tmp_path / "out/scene.json").read_bytes()

        def full_disk(layout: DatasetFolder, index: Any, *rest: Any) -> None:
            if index == 1:
                raise OSError(28, "No space left on device", str(layout.folder / "mask"))
            writer.write_view(layout, index, *rest)

        monkeypatch.setattr(capture, "write_view", full_disk)
        capsys.readouterr()
        assert run(tmp_path / "out", **small | {"seed": 9}) == 2
        assert "No space left on device" in self.line(capsys)
        assert (tmp_path / "out/scene.json").read_bytes() == before
        assert os.listdir(tmp_path) == ["out"]
