"""Normals to ray distances, against surfaces whose distances are known."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from test_training_parts import sphere_capture

from pmni.capture.capture import Capture, save_capture
from pmni.cli import main
from pmni.config.integration import IntegrateSettings
from pmni.errors import DivergenceError, InputError
from pmni.integration.bilateral import difference, integrate
from pmni.integration.stage import integrate_view, ray_distances

K = np.array([[300.0, 0, 31.5], [0, 280.0, 23.5], [0, 0, 1]])
SHARED = Path(os.environ.get("PMNI_SHARED", Path(__file__).parents[2] / "shared"))


def rays(height=48, width=64):
    v, u = np.mgrid[:height, :width].astype(float)
    return np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T


def plane(normal, distance):
    """Exact depth of the plane n . x = -distance and its normal map."""
    normal = np.array(normal) / np.linalg.norm(normal)
    m = rays()
    return -distance / (m @ normal), np.broadcast_to(normal, m.shape).astype(np.float32)


def solve(normals, mask, k=2.0, iterations=100, tolerance=1e-4):
    return integrate(normals, mask, K, k, iterations, tolerance)


def scaled_error(depth, truth):
    """Mean absolute error relative to the mean depth, after scaling by the median ratio."""
    depth = depth * np.nanmedian(truth / depth)
    return np.nanmean(np.abs(depth - truth)) / np.nanmean(truth)


def test_differences_by_hand():
    mask = np.array([[True, True, False], [True, False, False]])
    right = difference(mask, 0, 1).toarray()
    down = difference(mask, 1, 0).toarray()
    assert right.tolist() == [[-1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert down.tolist() == [[-1, 0, 1], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.4, -0.3, -1), (-0.8, 0.5, -1)])
def test_planes_are_nearly_exact(normal):
    truth, normals = plane(normal, 10.0)
    depth = solve(normals, np.ones(truth.shape, bool))
    assert scaled_error(depth, truth) < 2e-4


def test_a_sphere_is_a_sphere():
    capture, truth = sphere_capture(views=2)
    depth = integrate_view(capture, 0, IntegrateSettings())
    mask = capture.masks[0]
    depth *= np.nanmedian(truth[0] / depth)
    error = np.abs(depth - truth[0])[mask]
    assert error.mean() < 0.01  # of a radius of 0.5, 20 pixels across


def test_a_depth_step_is_kept_where_plain_least_squares_smears_it():
    """A sphere in front of a wall: at its outline the depth jumps, which no normal tells."""
    capture, truth = sphere_capture(views=2)
    front = capture.masks[0]
    wall = np.array([0, 0, -1], np.float32)
    normals = np.where(front[..., None], capture.normals[0], wall)

    def error_of_the_sphere(k):
        depth = integrate(
            normals, np.ones_like(front), capture.intrinsics[0], k, iterations=100, tolerance=1e-4
        )
        sphere = np.where(front, depth, np.nan)
        sphere *= np.nanmedian(truth[0] / sphere)
        return np.nanmean(np.abs(sphere - truth[0]))

    assert error_of_the_sphere(k=2.0) < 0.004
    assert error_of_the_sphere(k=2.0) < 0.6 * error_of_the_sphere(k=0.0)


def test_parts_and_holes_and_lonely_pixels():
    truth, normals = plane((0.4, -0.3, -1), 10.0)
    mask = np.zeros(truth.shape, bool)
    mask[5:20, 5:25] = True
    mask[10:12, 10:14] = False
    mask[30:40, 40:60] = True
    mask[45, 3] = True
    depth = solve(normals, mask)
    assert np.array_equal(np.isfinite(depth), mask)
    for part in (np.s_[5:20, 5:25], np.s_[30:40, 40:60]):
        inside = np.where(mask[part], depth[part], np.nan)
        assert np.nanmedian(inside) == pytest.approx(1.0, abs=1e-3)
        assert scaled_error(inside, truth[part]) < 2e-4
    assert depth[45, 3] == pytest.approx(1.0)


def test_non_finite_normals_name_the_view():
    capture, _ = sphere_capture(views=2)
    capture.normals[1][capture.masks[1]] = np.nan
    with pytest.raises(DivergenceError, match=r"sphere: view 01: .*non-finite"):
        integrate_view(capture, 1, IntegrateSettings())


def test_distances_of_the_dataset_are_taken_or_missed():
    capture, truth = sphere_capture(views=2)
    settings = IntegrateSettings(method="dataset")
    with pytest.raises(InputError, match=r"sphere: the dataset has no ray distances"):
        ray_distances(capture, settings)
    given = Capture(
        capture.name, capture.views, capture.normals, capture.masks, capture.intrinsics,
        ray_distances=truth,
    )  # fmt: skip
    taken = ray_distances(given, settings)
    np.testing.assert_allclose(np.nanmedian(taken, axis=(1, 2)), 1.0, rtol=1e-6)
    ratio = taken[0] / truth[0]
    np.testing.assert_allclose(ratio[capture.masks[0]], ratio[24, 32], rtol=1e-5)


def test_stage_writes_distances_and_a_preview(tmp_path):
    capture, _ = sphere_capture(views=3)
    save_capture(tmp_path / "capture", capture)
    command = ["integrate", "--capture", str(tmp_path / "capture"), "--output"]
    assert main([*command, str(tmp_path / "out")]) == 0
    with np.load(tmp_path / "out" / "ray_distance.npz") as archive:
        assert tuple(archive["views"]) == capture.views
        assert archive["ray_distance"].dtype == np.float32
        assert np.array_equal(np.isfinite(archive["ray_distance"]), capture.masks)
    assert (tmp_path / "out" / "preview.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["stage"] == "integrate"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the measured normal maps are not here")
@pytest.mark.parametrize(("name", "limit"), [("bear", 0.40), ("cow", 0.058), ("reading", 0.257)])
def test_measured_normal_maps(name, limit):
    """Mean absolute depth error on DiLiGenT, mm (BiNI's authors report .334, .058, .257)."""
    import cv2

    folder = SHARED / "data" / "diligent_single_view" / name
    bgr = cv2.imread(str(folder / "normal_map.png"), cv2.IMREAD_UNCHANGED)
    normals = (bgr[..., ::-1] / 65535.0 * 2 - 1) * [1, -1, -1]
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-6)
    mask = cv2.imread(str(folder / "mask.png"), cv2.IMREAD_GRAYSCALE) > 0
    truth = np.load(folder / "depth_gt.npz")["depth_gt"]
    depth = integrate(
        normals.astype(np.float32), mask, np.loadtxt(folder / "K.txt"), 2.0, 100, 1e-4
    )
    depth *= np.nanmedian(truth / depth)
    assert np.nanmean(np.abs(depth - truth)) < limit
