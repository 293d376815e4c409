"""Camera rigs of synthetic captures."""

from typing import Any

import numpy as np
import pytest

from pmni.errors import InputError
from pmni.geometry.cameras import invert_rigid, pixel_grid, project, ray_directions
from pmni.synthetic.camera_rig import (
    check_in_view,
    handheld_poses,
    intrinsics,
    random_poses,
    turntable_poses,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def azimuths_elevations(c2w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y, z = c2w[:, :3, 3].T
    return np.rad2deg(np.arctan2(y, x)), np.rad2deg(np.arctan2(z, np.hypot(x, y)))


def test_intrinsics_are_those_of_diligent_at_any_size() -> None:
    np.testing.assert_allclose(
        intrinsics(512, 612), [[3760, 0, 305.5], [0, 3760, 255.5], [0, 0, 1]]
    )
    small = intrinsics(128, 153)
    np.testing.assert_allclose(small[0, 0], 940)
    corners = pixel_grid(128, 153)[[0, -1], [0, -1]] + np.array([[-0.5], [0.5]]) * [1, 1, 0]
    angle = np.arccos(np.prod(ray_directions(corners, np.linalg.inv(small)), axis=0).sum())
    assert np.rad2deg(angle) == pytest.approx(12.1, abs=0.1)  # across the diagonal


class TestTurntable:
    def test_without_jitter_is_ideal(self) -> None:
        c2w = turntable_poses(8, np.deg2rad(25), 1500.0, 0.0, rng())
        azimuths, elevations = azimuths_elevations(c2w)
        np.testing.assert_allclose(azimuths % 360, 45 * np.arange(8), atol=1e-9)
        np.testing.assert_allclose(elevations, 25)
        np.testing.assert_allclose(np.linalg.norm(c2w[:, :3, 3], axis=1), 1500)
        centre, depth = project(invert_rigid(c2w)[:, :3, 3], intrinsics(512, 612))
        np.testing.assert_allclose(centre, np.tile([305.5, 255.5], (8, 1)), atol=1e-9)
        np.testing.assert_allclose(depth, 1500)
        # upright: above the centre is a smaller row
        above = invert_rigid(c2w)[:, :3, :3] @ [0, 0, 50.0] + invert_rigid(c2w)[:, :3, 3]
        upper, _ = project(above, intrinsics(512, 612))
        np.testing.assert_allclose(upper[:, 0], 305.5, atol=1e-9)
        assert (upper[:, 1] < 255.5 - 100).all()

    def test_jitter_of_one_is_a_hand_made_rig(self) -> None:
        many = [turntable_poses(20, np.deg2rad(25), 1500.0, 1.0, rng(seed)) for seed in range(200)]
        azimuths, elevations = zip(*(azimuths_elevations(c2w) for c2w in many), strict=True)
        off = (np.array(azimuths) - 18 * np.arange(20) + 180) % 360 - 180
        assert off.std() == pytest.approx(1.0, rel=0.05)
        common = np.array(elevations).mean(1)
        assert common.mean() == pytest.approx(25, abs=0.3)
        assert common.std() == pytest.approx(1.5, rel=0.15)
        assert (np.array(elevations) - common[:, None]).std() == pytest.approx(0.5, rel=0.05)
        centres = np.array([c2w[:, :3, 3] for c2w in many])
        assert np.linalg.norm(centres, axis=-1).std() / 1500 == pytest.approx(0.01, rel=0.1)
        # where the cameras look: the offset axis and each one's own aim, across the line of sight
        aims = np.array([invert_rigid(c2w)[:, :2, 3] for c2w in many])
        assert aims.std() == pytest.approx(np.hypot(2.0, 1.0), rel=0.1)
        for c2w in many[:5]:
            np.testing.assert_allclose(
                c2w[:, :3, :3] @ c2w[:, :3, :3].swapaxes(1, 2), [np.eye(3)] * 20, atol=1e-12
            )
            np.testing.assert_allclose(np.linalg.det(c2w[:, :3, :3]), 1)

    def test_roll(self) -> None:
        rolled = [turntable_poses(20, 0.4, 1500.0, 1.0, rng(seed)) for seed in range(50)]
        right = np.concatenate([c2w[:, :3, 0] for c2w in rolled])
        assert np.rad2deg(np.arcsin(right[:, 2])).std() == pytest.approx(0.3 * np.cos(0.4), rel=0.1)

    def test_the_same_seed_gives_the_same_rig(self) -> None:
        same = [turntable_poses(5, 0.4, 1500.0, 1.0, rng(3)) for _ in range(2)]
        np.testing.assert_array_equal(*same)
        assert np.abs(same[0] - turntable_poses(5, 0.4, 1500.0, 1.0, rng(4))).max() > 0.1


class TestRandom:
    def test_elevations_rolls_and_azimuths(self) -> None:
        c2w = random_poses(300, 1500.0, 0.0, rng())
        azimuths, elevations = azimuths_elevations(c2w)
        assert -10 < elevations.min() < -8
        assert 57 < elevations.max() < 60
        # even over the sphere: half of them below the middle height
        middle = np.rad2deg(np.arcsin((np.sin(np.deg2rad(60)) + np.sin(np.deg2rad(-10))) / 2))
        assert (elevations < middle).mean() == pytest.approx(0.5, abs=0.07)
        np.testing.assert_allclose(np.diff(np.sort(azimuths % 360)), 1.2, atol=1.2)
        up = -c2w[:, 2, 1] / np.cos(np.deg2rad(elevations))  # the roll's cosine
        assert (up < 0).mean() == pytest.approx(0.5, abs=0.1)
        np.testing.assert_allclose(np.linalg.norm(c2w[:, :3, 3], axis=1), 1500)

    def test_views_are_in_no_order_and_no_side_is_unseen(self) -> None:
        azimuths, _ = azimuths_elevations(random_poses(20, 1500.0, 0.0, rng()))
        assert np.abs(np.diff(azimuths)).max() > 90
        gaps = np.diff(np.sort(azimuths % 360))
        assert gaps.max() < 36


class TestBorder:
    K = intrinsics(512, 612)
    w2c = invert_rigid(turntable_poses(2, 0.0, 1500.0, 0.0, np.random.default_rng(0)))

    def test_inside(self) -> None:
        check_in_view(np.array([[0.0, 0, 101], [0, 0, -101]]), self.K, self.w2c, 512, 612)

    @pytest.mark.parametrize("point", [(0, 0, 101.7), (0, 0, -101.7), (0, 122, 0), (0, -122, 0)])
    def test_outside_names_the_view_and_what_to_do(self, point: Any) -> None:
        vertices = np.array([[0.0, 0, 0], point])
        with pytest.raises(InputError, match=r"view 0: the object reaches the image border.*lower"):
            check_in_view(vertices, self.K, self.w2c, 512, 612)

    def test_a_camera_inside(self) -> None:
        with pytest.raises(InputError, match="view 0: the camera is inside the object"):
            check_in_view(np.array([[2000.0, 0, 0], [0, 0, 0]]), self.K, self.w2c, 512, 612)


def test_handheld_cameras_are_in_their_ranges() -> None:
    c2w = np.concatenate([handheld_poses(20, 1500.0, 0.0, rng(seed)) for seed in range(30)])
    x, y, z = c2w[:, :3, 3].T
    distance = np.linalg.norm(c2w[:, :3, 3], axis=1)
    elevation = np.rad2deg(np.arcsin(z / distance))
    assert 5 <= elevation.min() < 6
    assert 49 < elevation.max() <= 50
    assert 1425 <= distance.min() < 1430
    assert 1570 < distance.max() <= 1575
    level = np.cross(c2w[:, :3, 2], [0, 0, 1.0])
    level /= np.linalg.norm(level, axis=1, keepdims=True)
    roll = np.rad2deg(np.arccos(np.clip((level * c2w[:, :3, 0]).sum(1), -1, 1)))
    assert 19 < roll.max() <= 20.001
    azimuths = np.unwrap(np.arctan2(y, x).reshape(30, 20), axis=1)
    step = np.rad2deg(np.abs(np.diff(azimuths)))
    assert step.min() < 8
    assert 28 < step.max() < 31
    assert len({np.sign(s) for s in np.diff(azimuths).ravel()}) == 1
