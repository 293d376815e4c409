"""COLMAP's text model, read back."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.export_formats import (
    PIXEL,
    POINT,
    lines_of,
    one_camera,
    project_colmap,
    read_colmap,
)
from scipy.spatial.transform import Rotation

from pmni.errors import InputError
from pmni.exporting.colmap import quaternion, write_colmap
from pmni.exporting.scene import Cameras, Points, no_points


def test_colmap_by_hand(tmp_path: Path) -> None:
    write_colmap(tmp_path, one_camera(), ["07.png"], Points(POINT[None], np.array([[0.0, 0, 1]])))
    assert lines_of(tmp_path / "cameras.txt") == ["1 PINHOLE 64 48 100 90 30.5 20.5", ""]
    image, features, _ = lines_of(tmp_path / "images.txt")
    number, *pose, camera, name = image.split()
    assert (number, camera, name, features) == ("1", "1", "07.png", "")
    # w2c takes x to -z, y to x, z to -y: a turn by 120 degrees about (1, 1, -1)
    expected = [0.5, 0.5, 0.5, -0.5, 0, 0, 10]
    np.testing.assert_allclose(np.array(pose, float), expected, atol=1e-12)
    assert lines_of(tmp_path / "points3D.txt") == ["1 0 1 2 128 128 255 -1", ""]
    found, _, _ = read_colmap(tmp_path)
    assert found["07.png"][0] == (64, 48)
    np.testing.assert_allclose(project_colmap(found["07.png"], POINT), PIXEL + 0.5)


def test_quaternion_has_its_real_part_first_and_not_negative() -> None:
    w2c = np.eye(4)
    assert quaternion(w2c).tolist() == [1, 0, 0, 0]
    w2c[:2, :2] = [[0, -1], [1, 0]]  # a quarter turn about z
    np.testing.assert_allclose(quaternion(w2c), [np.sqrt(0.5), 0, 0, np.sqrt(0.5)])
    for rotation in Rotation.random(20, random_state=0).as_matrix():
        w2c[:3, :3] = rotation
        assert quaternion(w2c)[0] >= 0


def test_views_of_the_same_intrinsics_share_a_camera(tmp_path: Path) -> None:
    K = np.array([[100.0, 0, 30], [0, 90, 20], [0, 0, 1]])
    other = np.array([[101.0, 0, 30], [0, 90, 20], [0, 0, 1]])
    intrinsics = np.stack([K, other, K * (1 + 1e-15)])
    cameras = Cameras(
        ("0", "1", "2"), (48, 64), intrinsics, np.tile(np.eye(4), (3, 1, 1)), 1.0, np.zeros(3)
    )
    write_colmap(tmp_path, cameras, ["0.png", "1.png", "2.png"], no_points())
    found, models, _ = read_colmap(tmp_path)
    assert len(models) == 2
    assert [found[f"{i}.png"][1][0] for i in range(3)] == [100, 101, 100]


def test_colmap_takes_no_names_with_spaces(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="view 07: COLMAP cannot hold names with spaces"):
        write_colmap(tmp_path, one_camera(), ["view 07.png"], no_points())
