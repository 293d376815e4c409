"""Captures with the errors of measurement, shuffled views and hidden poses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.readers import read_capture

from pmni.cli.main import main
from pmni.errors import InputError
from pmni.io.images import read_mask, read_normal_map

SETTINGS = {
    "scene": "blob", "views": 5, "height": 48, "width": 58, "pose_jitter": 1.0,
    "normal_noise": 4.0, "seed": 7,
}  # fmt: skip
NOISY = "normal_camera_space_noisy"


def made(output: Path, **changes: Any) -> Path:
    settings = json.dumps(SETTINGS | changes)
    assert main(["synthesize", "--settings", settings, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("plain") / "blob")


@pytest.fixture(scope="module")
def worst(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything at once."""
    return made(
        tmp_path_factory.mktemp("worst") / "blob", shuffle=True, known_poses=False,
        shading_error=2.0, mask_offset=1.0, mask_jitter=1.0,
    )  # fmt: skip


def truth(folder: Path) -> dict:
    return json.loads((folder / "gt/scene.json").read_text())


class TestShuffledViews:
    def test_everything_follows_the_permutation(self, plain: Any, worst: Any) -> None:
        order = truth(worst)["order"]
        assert sorted(order) == list(range(5))
        assert order != sorted(order)
        poses = np.array(truth(plain)["poses_c2w"])[order]
        np.testing.assert_array_equal(truth(worst)["poses_c2w"], poses)
        depths = [np.load(folder / "gt/depth.npz")["depth"] for folder in (plain, worst)]
        np.testing.assert_array_equal(depths[0][order], depths[1])
        for view, was in enumerate(order):
            for kind in ("normal_camera_space_GT",):
                there, here = plain / kind / f"{was:02d}.exr", worst / kind / f"{view:02d}.exr"
                np.testing.assert_array_equal(read_normal_map(there), read_normal_map(here))

    def test_without_it_the_order_is_not_mentioned(self, plain: Any) -> None:
        assert "order" not in truth(plain)


class TestHiddenPoses:
    def test_nothing_but_gt_tells_them(self, worst: Any) -> None:
        made = {str(path.relative_to(worst)) for path in worst.rglob("*") if path.is_file()}
        outside = {name for name in made if not name.startswith("gt/")}
        images = {
            f"{kind}/{view:02d}.{suffix}"
            for view in range(5)
            for kind, suffix in (
                ("mask", "png"), ("normal_camera_space_GT", "exr"), (NOISY, "exr"),
            )
        }  # fmt: skip
        assert outside == images | {"K.txt", "scene.json", "provenance.json"}
        assert made - outside == {
            f"gt/{name}"
            for name in ("cameras_sphere.npz", "mesh_Gt.ply", "depth.npz", "scene.json")
        }
        for name in ("scene.json", "provenance.json"):
            text = (worst / name).read_text()
            assert "c2w" not in text
            assert "order" not in text.replace("reorder", "")

    def test_a_capture_has_them_for_evaluation(self, worst: Any, tmp_path: Path) -> None:
        capture, files = read_capture("supernormal", worst, "blob", NOISY)
        scale = np.array(truth(worst)["poses_c2w"])
        scale[:, :3, 3] /= 100
        np.testing.assert_allclose(capture.reference_c2w, scale, atol=1e-9)
        assert capture.ground_truth_mesh is not None
        assert "gt/cameras_sphere.npz" in files
        blind = tmp_path / "blind"
        shutil.copytree(worst, blind)
        shutil.rmtree(blind / "gt")
        without, _ = read_capture("supernormal", blind, "blob", NOISY)
        assert without.reference_c2w is None
        assert without.ground_truth_mesh is None
        for name in ("normals", "masks", "intrinsics"):
            np.testing.assert_array_equal(getattr(capture, name), getattr(without, name))

    def test_poses_in_gt_do_not_turn_world_normals(self, plain: Any, tmp_path: Path) -> None:
        folder = tmp_path / "blob"
        shutil.copytree(plain, folder)
        (folder / "cameras_sphere.npz").rename(folder / "gt/cameras_sphere.npz")
        with pytest.raises(InputError, match="world-space normals need poses"):
            read_capture("supernormal", folder, "blob", "normal_world_space_noisy")

    def test_own_layout(self, plain: Any, tmp_path: Path) -> None:
        folder = tmp_path / "vase"
        shutil.copytree(plain / NOISY, folder / "normals")
        shutil.copytree(plain / "mask", folder / "masks")
        shutil.copy(plain / "K.txt", folder)
        (folder / "gt").mkdir()
        shutil.copy(plain / "mesh_Gt.ply", folder / "gt")
        poses = {f"{view:02d}": pose for view, pose in enumerate(truth(plain)["poses_c2w"])}
        (folder / "gt/poses.json").write_text(json.dumps({"camera_to_world": poses}))
        capture, files = read_capture("custom", folder, "vase", "normals")
        assert capture.reference_c2w is not None
        assert capture.ground_truth_mesh is not None
        assert {"gt/poses.json", "gt/mesh_Gt.ply"} <= set(files)


class TestMeasuredImages:
    def test_normals_cover_the_wrong_mask(self, worst: Any, plain: Any) -> None:
        changed = 0
        for view, was in enumerate(truth(worst)["order"]):
            mask = read_mask(worst / f"mask/{view:02d}.png")
            true = read_mask(plain / f"mask/{was:02d}.png")
            normals = read_normal_map(worst / NOISY / f"{view:02d}.exr")
            np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), mask, atol=2e-3)
            changed += (mask ^ true).sum()
        assert changed > 50

    def test_masks_alone(self, plain: Any, tmp_path: Path) -> None:
        """Noise and cameras stay; normals and depth go on outside the true mask."""
        folder = made(tmp_path / "out", mask_offset=1.5)
        for view in range(5):
            name = f"{view:02d}"
            mask, true = (read_mask(f / f"mask/{name}.png") for f in (folder, plain))
            both = mask & true
            normals = [read_normal_map(f / NOISY / f"{name}.exr") for f in (folder, plain)]
            np.testing.assert_array_equal(normals[0][both], normals[1][both])
            depth = np.load(folder / f"integration/perspective/{name}.npy")
            np.testing.assert_array_equal(np.isfinite(depth), mask)
        read_capture("supernormal", folder, "blob", NOISY)

    def test_shading_alone_has_its_mean(self, tmp_path: Path) -> None:
        folder = made(tmp_path / "out", normal_noise=0.0, shading_error=3.0)
        scene = json.loads((folder / "scene.json").read_text())
        weights = np.array(scene["covered"])
        mean = (weights * scene["normal_error_deg"]).sum() / weights.sum()
        assert mean == pytest.approx(3.0, rel=0.02)
