"""Initial poses: the reference, with noise, and an ideal turntable."""

import json

import numpy as np
import pytest
from fixtures.training import K, sphere_capture

from pmni.cli.main import main
from pmni.config.registration import RegisterSettings
from pmni.data.capture import Capture, save_capture
from pmni.errors import InputError
from pmni.geometry.cameras import turntable
from pmni.geometry.transforms import rotation_angle_deg
from pmni.io.poses import read_poses
from pmni.registration import register as registration
from pmni.registration.ideal_turntable import ideal_turntable
from pmni.registration.perturbation import add_noise, add_view_errors


def register(capture, **settings):
    return registration.register(capture, None, RegisterSettings.parse(settings, "test")).c2w


def without_reference(capture):
    return Capture(capture.normals, capture.masks, capture.intrinsics, capture.views, capture.name)


def test_ideal_turntable_of_four_by_hand():
    capture, _ = sphere_capture(views=4)  # the sphere is centred on the principal point
    c2w = ideal_turntable(capture.masks, capture.intrinsics, 0.0, 15.0, clockwise=False)
    corners = 15.0 * np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    np.testing.assert_allclose(c2w[:, :3, 3], corners, atol=1e-9)
    np.testing.assert_allclose(c2w[:, :3, 2], -corners / 15, atol=1e-9)  # forward: inwards
    np.testing.assert_allclose(c2w[:, :3, 1], [[0, 0, -1]] * 4, atol=1e-9)  # down
    other = ideal_turntable(capture.masks, capture.intrinsics, 0.0, 15.0, clockwise=True)
    np.testing.assert_allclose(other[1, :3, 3], [0, -15, 0], atol=1e-9)


def test_ideal_turntable_sees_the_masks_centre_at_the_origin_and_fits_the_unit_sphere():
    capture, _ = sphere_capture(views=5)
    masks = np.roll(capture.masks, (3, -7), axis=(1, 2))  # the object is off the principal point
    c2w = ideal_turntable(masks, capture.intrinsics, 0.4, None, clockwise=False)
    origin = -np.einsum("vji,vj->vi", c2w[:, :3, :3], c2w[:, :3, 3])
    pixel = origin @ K.T
    pixel = pixel[:, :2] / pixel[:, 2:]
    np.testing.assert_allclose(pixel, [[31.5 - 7, 23.5 + 3]] * 5, atol=0.05)
    distance = np.linalg.norm(c2w[:, :3, 3], axis=1)
    # The sphere has radius 0.5 seen from 15: at the ring's scale that becomes 0.8.
    np.testing.assert_allclose(distance, 15 * 0.8 / 0.5, rtol=0.05)


def test_reference_is_the_reference_and_its_absence_an_error():
    capture, _ = sphere_capture()
    assert np.array_equal(register(capture, method="reference"), capture.reference_c2w)
    for method in ("reference", "noisy"):
        with pytest.raises(InputError, match="sphere: the capture has no reference poses"):
            register(without_reference(capture), method=method)


def test_noise_has_the_given_size_and_turns_about_the_object():
    c2w = turntable(np.linspace(0, 6, 4000), 0.4, 15.0)
    turned = add_noise(c2w, 2.0, 0.0, np.random.default_rng(0))
    angle = rotation_angle_deg(c2w[:, :3, :3], turned[:, :3, :3])
    assert np.sqrt((angle**2).mean()) == pytest.approx(2.0 * np.sqrt(3), rel=0.03)
    np.testing.assert_allclose(np.linalg.norm(turned[:, :3, 3], axis=1), 15.0)
    moved = add_noise(c2w, 0.0, 0.01, np.random.default_rng(0))
    assert np.array_equal(moved[:, :3, :3], c2w[:, :3, :3])
    assert (moved - c2w)[:, :3, 3].std() == pytest.approx(0.15, rel=0.03)


def test_view_errors_lie_in_their_range_and_keep_the_horizon():
    c2w = turntable(np.linspace(0, 6, 500), 0.4, 15.0)
    wrong = add_view_errors(c2w, (2.0, 3.0), 0.01, np.random.default_rng(0))
    angle = rotation_angle_deg(c2w[:, :3, :3], wrong[:, :3, :3])
    assert 1.99 < angle.min() < 2.1
    assert 2.9 < angle.max() < 3.01
    np.testing.assert_allclose(wrong[:, 2, 0], 0, atol=1e-9)  # no roll: x stays horizontal
    ratio = np.linalg.norm(wrong[:, :3, 3], axis=1) / 15
    assert ratio.std() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("wrong", [[3.0, 2.0], [-1.0, 2.0], [0.0, 90.0]])
def test_a_range_of_errors_that_is_none_is_refused(wrong):
    with pytest.raises(InputError, match=r"test: 'view_error': .*lowest, highest"):
        RegisterSettings.parse({"view_error": wrong}, "test")


def test_same_seed_same_errors():
    capture, _ = sphere_capture()
    settings = {"method": "turntable", "view_error": [2, 3], "distance_error": 0.01}
    one, again = (register(capture, **settings, seed=4) for _ in range(2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, register(capture, **settings, seed=5))


def test_a_ring_needs_no_poses_and_does_not_look_at_them():
    capture, _ = sphere_capture()
    bare = without_reference(capture)
    assert np.array_equal(register(bare, method="turntable"), register(capture, method="turntable"))


def test_stage_writes_poses_for_all_views(tmp_path):
    capture, _ = sphere_capture()
    save_capture(tmp_path / "capture", capture)
    settings = json.dumps({"method": "turntable", "elevation": 20})
    command = ["register", "--capture", str(tmp_path / "capture"), "--settings", settings]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    poses = read_poses(tmp_path / "out" / "initial_poses.json")
    assert poses.views == capture.views
    assert poses.information == {"method": "turntable"}
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["stage"] == "register"
