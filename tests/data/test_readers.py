"""Readers of all layouts, on one scene."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.capture_files import (
    OFFSET,
    SCALE,
    SPHERES,
    spheres,
    write_custom,
    write_diligent,
    write_supernormal,
)
from fixtures.readers import read_capture
from scipy.io import loadmat, savemat

from pmni.config.capture import PrepareSettings
from pmni.data.capture import Capture
from pmni.data.layouts import detect_layout
from pmni.data.readers.files import by_view, view_keys
from pmni.data.readers.supernormal import decompose
from pmni.errors import InputError
from pmni.geometry.cameras import pixel_grid, ray_directions
from pmni.io.images import read_normal_map, write_mask, write_normal_map

SCALED = PrepareSettings(depth_init_scale=14.6)
"""Undoes the scale of the files' ray distances."""


def assert_same_normals(capture: Capture, scene: Any, tolerance: Any = 1e-6) -> None:
    assert np.array_equal(capture.masks, scene.masks)
    assert np.abs(capture.normals - scene.normals).max() < tolerance
    assert not capture.normals[~capture.masks].any()


@pytest.mark.parametrize("normals", ["normal_camera_space_x", "normal_world_space_x"])
def test_supernormal_with_cameras(tmp_path: Path, normals: Any) -> None:
    scene = spheres()
    folder = write_supernormal(tmp_path / "ball", scene)
    capture, files = read_capture("supernormal", folder, "ball", normals, SCALED)
    assert capture.name == "ball"
    assert capture.views == ("00", "01", "02", "03", "04")
    assert_same_normals(capture, scene)
    assert np.abs(capture.intrinsics - scene.K).max() < 1e-9
    assert np.abs(capture.reference_c2w - scene.normalised_c2w).max() < 1e-10
    assert capture.scale == SCALE
    assert np.array_equal(capture.offset, OFFSET)
    assert np.abs(capture.ground_truth_normals - scene.normals).max() < 1e-6
    assert np.abs(capture.ground_truth_mesh.vertices - scene.mesh.vertices).max() < 1e-5
    assert np.array_equal(capture.ground_truth_mesh.faces, scene.mesh.faces)
    assert np.array_equal(np.isnan(capture.ray_distances), ~scene.masks)
    assert np.nanmax(np.abs(capture.ray_distances - scene.distances / SCALE)) < 1e-5
    # every file that was read, and no other normal set
    assert {Path(name).parts[0] for name in files} == {
        normals, "mask", "normal_camera_space_GT", "integration", "cameras_sphere.npz",
        "K.txt", "mesh_Gt.ply",
    }  # fmt: skip
    assert len(files) == 4 * 5 + 3


def test_points_of_the_surface_project_where_their_normals_are(tmp_path: Path) -> None:
    """Pose, intrinsics, distance and scale together: back-projection lands on the spheres."""
    folder = write_supernormal(tmp_path / "ball", spheres())
    capture, _ = read_capture("supernormal", folder, "ball", "normal_camera_space_x", SCALED)
    for view in range(5):
        mask, c2w = capture.masks[view], capture.reference_c2w[view]
        rays = ray_directions(pixel_grid(*mask.shape), np.linalg.inv(capture.intrinsics[view]))
        local = (rays * capture.ray_distances[view][..., None])[mask]
        points = capture.to_dataset(local @ c2w[:3, :3].T + c2w[:3, 3]) - OFFSET
        gap = np.linalg.norm(points[:, None] - SPHERES[:, :3], axis=-1) - SPHERES[:, 3]
        assert np.abs(gap).min(1).max() < 1e-3
        owner = np.abs(gap).argmin(1)
        outward = (points - SPHERES[owner, :3]) / SPHERES[owner, 3:]
        normals = capture.normals[view][mask] @ c2w[:3, :3].T
        assert np.abs(normals - outward).max() < 1e-4


def test_supernormal_without_cameras_has_no_poses(tmp_path: Path) -> None:
    scene = spheres()
    folder = write_supernormal(tmp_path / "ball", scene, cameras=False)
    capture, _ = read_capture("supernormal", folder, "ball", "normal_camera_space_x")
    assert capture.reference_c2w is None
    assert (capture.scale, capture.offset.tolist()) == (1.0, [0, 0, 0])
    assert_same_normals(capture, scene)
    assert np.abs(capture.intrinsics - scene.K).max() < 1e-9
    assert capture.ground_truth_normals is not None
    with pytest.raises(InputError, match=r"normal_world_space_x: world-space normals need poses"):
        read_capture("supernormal", folder, "ball", "normal_world_space_x")


def test_world_space_truth_and_other_spellings(tmp_path: Path) -> None:
    scene = spheres()
    folder = write_supernormal(tmp_path / "ball", scene)
    for file in (folder / "normal_camera_space_GT").iterdir():
        file.unlink()
    (folder / "normal_camera_space_GT").rmdir()
    (folder / "normal_world_space_x").rename(folder / "normal_world_space_GT")
    (folder / "mesh_Gt.ply").rename(folder / "mesh_GT.ply")
    (folder / "mask").rename(folder / "masks")
    capture, _ = read_capture("supernormal", folder, "ball", "normal_camera_space_x")
    assert np.abs(capture.ground_truth_normals - scene.normals).max() < 1e-6
    assert len(capture.ground_truth_mesh.faces) == len(scene.mesh.faces)


def test_views_are_matched_by_number_and_ordered(tmp_path: Path) -> None:
    """Normals 8..12, masks m8..m12 (unpadded), cameras world_mat_8..12."""
    scene = spheres()
    folder = write_supernormal(tmp_path / "ball", scene)
    with np.load(folder / "cameras_sphere.npz") as archive:
        moved = {f"{n[:9]}_{int(n[10:]) + 8}": a for n, a in archive.items() if n[0] == "w"}
        moved |= {f"{n[:9]}_{int(n[10:]) + 8}": a for n, a in archive.items() if n[0] == "s"}
    np.savez(folder / "cameras_sphere.npz", **moved)
    for i in reversed(range(5)):
        for name in ("normal_camera_space_x", "normal_camera_space_GT"):
            (folder / name / f"{i:02d}.exr").rename(folder / name / f"{i + 8}.exr")
        (folder / "mask" / f"{i:02d}.png").rename(folder / "mask" / f"m{i + 8}.png")
        file = folder / "integration" / "perspective" / f"{i:02d}.npy"
        file.rename(file.with_name(f"{i + 8:03d}.npy"))
    capture, _ = read_capture("supernormal", folder, "ball", "normal_camera_space_x")
    assert capture.views == ("8", "9", "10", "11", "12")
    assert_same_normals(capture, scene)
    assert np.abs(capture.reference_c2w - scene.normalised_c2w).max() < 1e-10


def test_projection_matrices_of_any_factor(tmp_path: Path) -> None:
    scene = spheres()
    folder = write_supernormal(tmp_path / "ball", scene)
    with np.load(folder / "cameras_sphere.npz") as archive:
        arrays = dict(archive)
    for i in range(5):
        arrays[f"world_mat_{i}"] = arrays[f"world_mat_{i}"] * (1 + i)
    np.savez(folder / "cameras_sphere.npz", **arrays)
    capture, _ = read_capture("supernormal", folder, "ball", "normal_camera_space_x")
    assert np.abs(capture.reference_c2w - scene.normalised_c2w).max() < 1e-10


def test_decomposition_by_hand() -> None:
    """P = K [R | t] with a quarter turn about z; centre = -R^T t."""
    K = np.array([[200.0, 0, 50], [0, 100, 40], [0, 0, 1]])
    R = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    t = np.array([1.0, 2, 3])
    found, c2w = decompose(K @ np.column_stack([R, t]), "here")
    assert np.abs(found - K).max() < 1e-12
    assert np.abs(c2w[:3, :3] - R.T).max() < 1e-12
    assert np.abs(c2w[:3, 3] - [-2, 1, -3]).max() < 1e-12


@pytest.mark.parametrize("with_mesh", [True, False])
def test_diligent_mv(tmp_path: Path, with_mesh: Any) -> None:
    scene = spheres()
    folder = write_diligent(tmp_path / "ballPNG", scene, mesh=with_mesh)
    capture, files = read_capture("diligent_mv", folder, "ball", "Normal_gt")
    assert capture.views == ("view_01", "view_02", "view_03", "view_04", "view_05")
    assert_same_normals(capture, scene)
    assert np.abs(capture.ground_truth_normals - scene.normals).max() < 1e-6
    assert np.abs(capture.intrinsics - scene.K).max() == 0
    # the same cameras in dataset units, whatever the normalisation
    moved = capture.reference_c2w.copy()
    moved[:, :3, 3] = capture.scale * moved[:, :3, 3] + capture.offset
    assert np.abs(moved - scene.c2w).max() < 1e-9
    # the object is inside the unit sphere and fills it
    radius = np.linalg.norm(capture.to_normalised(np.array(scene.mesh.vertices)), axis=1).max()
    assert 0.7 < radius < 0.95
    assert (capture.ground_truth_mesh is not None) == with_mesh
    assert "Calib_Results.mat" in files
    assert "view_03/Normal_gt.mat" in files


def test_diligent_mv_other_normals_and_common_mask_folder(tmp_path: Path) -> None:
    scene = spheres()
    folder = write_diligent(tmp_path / "ballPNG", scene)
    (folder / "mask").mkdir()
    for i, view in enumerate(sorted(folder.glob("view_*"))):
        turned = scene.normals[i] * [1, -1, -1]
        write_normal_map(view / "ps.exr", turned)
        (view / "mask.png").rename(folder / "mask" / f"{i + 1:02d}.png")
    capture, files = read_capture("diligent_mv", folder, "ball", "ps")
    assert_same_normals(capture, scene)
    assert {"view_01/ps.exr", "view_01/Normal_gt.mat", "mask/01.png"} <= set(files)


def test_diligent_mv_holes_in_masks_are_filled_where_there_are_normals(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A hole with normals is a fault of the mask; one without is a gap in the object."""
    scene = spheres()
    folder = write_diligent(tmp_path / "bearPNG", scene)
    view = folder / "view_02"
    rows, columns = np.nonzero(scene.masks[1])
    row, column = int(rows.mean()), int(columns.mean())
    mask = scene.masks[1].copy()
    mask[row : row + 2, column : column + 3] = False  # a hole with normals
    mask[row - 5 : row - 3, column] = False  # a gap
    normals = loadmat(view / "Normal_gt.mat")["Normal_gt"]
    normals[row - 5 : row - 3, column] = 0
    savemat(view / "Normal_gt.mat", {"Normal_gt": normals})
    write_mask(view / "mask.png", mask)
    with caplog.at_level(logging.INFO):
        capture, _ = read_capture("diligent_mv", folder, "bear", "Normal_gt")
    assert "view_02/mask.png: view view_02: filled holes of 6 pixels" in caplog.text
    expected = scene.masks[1].copy()
    expected[row - 5 : row - 3, column] = False
    assert np.array_equal(capture.masks[1], expected)


@pytest.mark.parametrize("suffix", [".exr", ".png", ".npy"])
def test_own_object_without_poses(tmp_path: Path, suffix: str) -> None:
    scene = spheres()
    folder = write_custom(tmp_path / "cup", scene, suffix)
    capture, _ = read_capture("custom", folder, "cup", "ps")
    assert capture.views == tuple(f"shot{i}" for i in range(5))
    assert_same_normals(capture, scene, 5e-5 if suffix == ".png" else 1e-6)
    assert capture.reference_c2w is None
    assert capture.ground_truth_mesh is None
    assert capture.scale == 1


def test_own_object_with_poses_and_an_intrinsic_matrix_each(tmp_path: Path) -> None:
    scene = spheres()
    folder = write_custom(tmp_path / "cup", scene, poses=True)
    (folder / "K.txt").unlink()
    (folder / "K").mkdir()
    for i in range(5):
        np.savetxt(folder / "K" / f"shot{i}.txt", scene.K)
    K2 = scene.K.copy()
    K2[0, 2] += 0.5
    np.savetxt(folder / "K" / "shot2.txt", K2)
    capture, files = read_capture("custom", folder, "cup", "ps")
    assert capture.intrinsics[2, 0, 2] == pytest.approx(scene.K[0, 2] + 0.5)
    assert capture.intrinsics[1, 0, 2] == pytest.approx(scene.K[0, 2])
    moved = capture.reference_c2w.copy()
    moved[:, :3, 3] = capture.scale * moved[:, :3, 3] + capture.offset
    assert np.abs(moved - scene.c2w).max() < 1e-9
    assert {"poses.json", "K/shot4.txt"} <= set(files)


def test_views_of_different_sizes_are_padded(tmp_path: Path) -> None:
    scene = spheres()
    folder = write_custom(tmp_path / "cup", scene)
    rows = slice(0, np.flatnonzero(scene.masks[1].any(1))[-1] + 2)
    columns = slice(0, np.flatnonzero(scene.masks[1].any(0))[-1] + 2)
    write_mask(folder / "masks" / "shot1.png", scene.masks[1, rows, columns])
    write_normal_map(folder / "ps" / "shot1.exr", scene.normals[1, rows, columns] * [1, -1, -1])
    capture, _ = read_capture("custom", folder, "cup", "ps")
    assert_same_normals(capture, scene)
    sizes = np.tile(scene.masks.shape[1:], (5, 1))
    sizes[1] = rows.stop, columns.stop
    assert np.array_equal(capture.sizes, sizes)


def test_lengths_near_one_are_made_one_and_a_few_holes_leave_the_mask(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = spheres()
    folder = write_custom(tmp_path / "cup", scene)
    normals = read_normal_map(folder / "ps" / "shot3.exr") * 0.97
    row, column = np.argwhere(scene.masks[3])[100]
    normals[row, column] = 0
    write_normal_map(folder / "ps" / "shot3.exr", normals)
    with caplog.at_level(logging.INFO):
        capture, _ = read_capture("custom", folder, "cup", "ps")
    expected = scene.masks[3].copy()
    expected[row, column] = False
    assert np.array_equal(capture.masks[3], expected)
    assert np.abs(capture.normals[3][expected] - scene.normals[3][expected]).max() < 1e-6
    assert "view shot3: 1 pixels without a normal taken out" in caplog.text


def test_normal_maps_that_go_on_outside_the_masks(tmp_path: Path) -> None:
    scene = spheres()
    folder = write_custom(tmp_path / "cup", scene)
    for i in range(5):
        everywhere = np.where(scene.masks[i][..., None], scene.normals[i], [0, 0, -1.0])
        write_normal_map(folder / "ps" / f"shot{i}.exr", everywhere * [1, -1, -1])
    capture, _ = read_capture("custom", folder, "cup", "ps")
    assert_same_normals(capture, scene)


def test_view_keys() -> None:
    assert view_keys(["00", "1", "012"]) == [0, 1, 12]
    assert view_keys(["view_01_n", "view_02_n"]) == [1, 2]
    assert view_keys(["pot2_01", "pot2_10"]) == [1, 10]
    assert view_keys(["front", "back", "07"]) == ["front", "back", 7]
    assert view_keys(["a1", "b1"]) == ["a1", "b1"]
    files = [Path(f"x/{stem}.png") for stem in ("10", "9", "100")]
    assert [path.stem for path in by_view(files).values()] == ["9", "10", "100"]
    with pytest.raises(InputError, match=r"1\.png: view 1 is there twice \(also as 01\.png\)"):
        by_view([Path("x/1.png"), Path("x/01.png")])


@pytest.mark.parametrize(
    ("layout", "write"),
    [("supernormal", write_supernormal), ("diligent_mv", write_diligent), ("custom", write_custom)],
)
def test_any_layout_is_found_out(tmp_path: Path, layout: str, write: Callable[..., Path]) -> None:
    scene = spheres()
    folder = write(tmp_path / "ball", scene)
    assert detect_layout(folder) == layout
    capture = Capture.load(folder)
    assert capture.name == "ball"
    assert_same_normals(capture, scene, 1e-3)


def test_a_choice_of_normal_sets_is_left_to_the_user(tmp_path: Path) -> None:
    folder = write_custom(tmp_path / "ball", spheres())
    shutil.copytree(folder / "ps", folder / "learned")
    with pytest.raises(InputError, match="name the normal set to read; there are: learned, ps"):
        Capture.load(folder)
    assert Capture.load(folder, "learned").views == Capture.load(folder, "ps").views


def test_a_folder_of_no_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not laid out as a capture.*name the layout"):
        Capture.load(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        Capture.load(tmp_path / "nowhere")
