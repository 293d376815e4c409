"""What all formats have in common: each sees a point in the same pixel."""

import json
from pathlib import Path

import numpy as np
import pytest
from fixtures.export_formats import (
    one_camera,
    project_colmap,
    project_nerfstudio,
    project_neus,
    read_colmap,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pmni.data.readers.supernormal import decompose, read_cameras
from pmni.errors import InputError
from pmni.exporting.colmap import write_colmap
from pmni.exporting.nerfstudio import write_transforms
from pmni.exporting.neus import write_cameras_sphere
from pmni.exporting.scene import Cameras, no_points


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_every_format_sees_a_point_in_the_same_pixel_and_gives_the_poses_back(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("exports")
    count = int(rng.integers(1, 5))
    views = tuple(f"{number:03d}" for number in range(count))
    intrinsics = np.zeros((count, 3, 3))
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = rng.uniform(50, 5000, (2, count))
    intrinsics[:, :2, 2] = rng.uniform(-100, 900, (count, 2))
    intrinsics[:, 2, 2] = 1
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, :3, :3] = Rotation.random(count, random_state=rng).as_matrix()
    scale, offset = float(rng.uniform(0.01, 500)), rng.normal(0, 100, 3)
    c2w[:, :3, 3] = offset - scale * 5 * c2w[:, :3, 2] + scale * rng.normal(0, 0.1, (count, 3))
    cameras = Cameras(views, (480, 640), intrinsics, c2w, scale, offset)
    point = rng.uniform(-0.5, 0.5, 3)
    in_dataset = scale * point + offset

    images = [f"{view}.png" for view in views]
    write_cameras_sphere(folder / "cameras_sphere.npz", cameras)
    write_transforms(folder / "transforms.json", cameras, images, images, images, None)
    write_colmap(folder, cameras, images, no_points())
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    found, _, points = read_colmap(folder)
    matrices, sphere = read_cameras(folder / "cameras_sphere.npz")
    assert len(points) == 0
    assert list(found) == images
    assert sphere.scale == scale
    assert np.array_equal(sphere.offset, offset)
    for index, image in enumerate(images):
        local = c2w[index, :3, :3].T @ (in_dataset - c2w[index, :3, 3])
        u, v, w = intrinsics[index] @ local
        expected = np.array([u, v]) / w
        pixel = project_neus(folder / "cameras_sphere.npz", index, point)
        np.testing.assert_allclose(pixel, expected, atol=1e-6)
        np.testing.assert_allclose(
            project_colmap(found[image], in_dataset), expected + 0.5, atol=1e-5
        )
        np.testing.assert_allclose(
            project_nerfstudio(frames[index], in_dataset), expected + 0.5, atol=1e-6
        )
        _, _, R, t = found[image]
        np.testing.assert_allclose(R.T, c2w[index, :3, :3], atol=1e-11)
        np.testing.assert_allclose(-R.T @ t, c2w[index, :3, 3], rtol=1e-9, atol=1e-7)
        opengl = np.array(frames[index]["transform_matrix"])
        np.testing.assert_allclose(opengl * [1, -1, -1, 1], c2w[index], atol=1e-12)
        K, pose = decompose(matrices[index], image)
        np.testing.assert_allclose(K, intrinsics[index], atol=1e-6)
        np.testing.assert_allclose(pose[:3, :3], c2w[index, :3, :3], atol=1e-9)
        np.testing.assert_allclose(pose[:3, 3], c2w[index, :3, 3], rtol=1e-8, atol=1e-6)


def test_a_skew_is_named_and_only_neus_holds_it(tmp_path: Path) -> None:
    skewed = one_camera(((100.0, 0.5, 30.0), (0, 90.0, 20.0), (0, 0, 1.0)))
    for software, write in (
        ("COLMAP", lambda: write_colmap(tmp_path, skewed, ["07.png"], no_points())),
        ("nerfstudio", lambda: write_transforms(tmp_path / "t", skewed, ["a"], ["b"], ["c"], None)),
    ):
        with pytest.raises(InputError, match=rf"view 07: K has a skew of 0\.5, which {software}"):
            write()
    write_cameras_sphere(tmp_path / "c.npz", skewed)
    matrices, _ = read_cameras(tmp_path / "c.npz")
    assert decompose(matrices[7], "")[0][0, 1] == pytest.approx(0.5)
