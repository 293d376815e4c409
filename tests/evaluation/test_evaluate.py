"""Evaluation: the ground truth scores zero, known faults score what they are."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from fixtures.evaluation_scene import (
    OFFSET,
    ball,
    capture_of,
    in_normalised,
    lumpy,
    moved,
    reference_poses,
    rotate_cameras,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pmni.config.evaluation import EvaluateSettings
from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.evaluation.evaluate import Evaluation, evaluate
from pmni.geometry.mesh import Mesh
from pmni.geometry.poses import Poses
from pmni.geometry.transforms import Similarity

GROUND_TRUTH = lumpy()
CAPTURE = capture_of(GROUND_TRUTH)
NONE, CAMERAS, ICP = (EvaluateSettings(alignment=name) for name in ("none", "cameras", "icp"))
POSE_KEYS = ("rotation_error_mean_deg", "rotation_error_max_deg", "translation_error_percent")


def score(
    mesh: Mesh = GROUND_TRUTH,
    poses: Poses | None = None,
    setting: EvaluateSettings = NONE,
    capture: Capture = CAPTURE,
    initial: Poses | None = None,
) -> Evaluation:
    return evaluate(capture, mesh, poses or reference_poses(capture), initial, setting)


@pytest.mark.parametrize("setting", [NONE, CAMERAS, ICP], ids=lambda s: s.alignment)
def test_truth_against_itself_is_zero(setting: EvaluateSettings) -> None:
    metrics = score(setting=setting).metrics
    tolerance = 0 if setting is NONE else 1e-6
    assert metrics["chamfer_mm"] <= tolerance
    assert (metrics["fscore_0.5"], metrics["fscore_1.0"], metrics["missed"]) == (1, 1, 0)
    assert metrics["mae_deg"] < 2e-3  # float32 normals
    assert max(metrics[key] for key in POSE_KEYS) < 1e-6
    assert metrics["watertight"] is True
    assert metrics["vertices"] == len(GROUND_TRUTH.vertices)
    assert metrics["normals_compared_with"] == "ground_truth_normals"


@pytest.mark.parametrize("offset", [2.0, -3.0])
def test_a_known_offset_gives_the_known_chamfer(offset: float) -> None:
    # rays 0.45 mm apart, so that the nearest sample is nearly the nearest point
    capture = capture_of(ball(60.0), views=3, height=448, width=448)
    result = score(ball(60.0 + offset), capture=capture)
    assert result.metrics["chamfer_mm"] == pytest.approx(abs(offset), rel=0.03)
    assert result.metrics["fscore_0.5"] == 0.0
    assert score(ball(60.3), capture=capture).metrics["fscore_0.5"] > 0.95
    assert result.metrics["mae_deg"] < 4
    observed = result.observed
    assert 0.5 < observed.mean() < 0.95  # nobody looks from below
    # but for a few vertices at the lower rim of what is seen of the truth
    most = np.percentile(result.surface_distance_mm[observed], [0, 99])
    np.testing.assert_allclose(most, abs(offset), atol=0.03)
    assert result.metrics["diameter_mm"] == pytest.approx(120, abs=0.01)
    percent = 100 * result.metrics["chamfer_mm"] / result.metrics["diameter_mm"]
    assert result.metrics["chamfer_percent"] == pytest.approx(percent)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10_000))
def test_any_gauge_of_mesh_and_poses_is_undone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(random_state=rng).as_matrix()
    gauge = Similarity(float(np.exp(rng.normal(0, 0.7))), rotation, rng.normal(0, 300, 3))
    poses = Poses(CAPTURE.views, in_normalised(gauge).move_cameras(reference_poses(CAPTURE).c2w))
    for setting in (CAMERAS, ICP):
        metrics = score(moved(GROUND_TRUTH, gauge), poses, setting).metrics
        assert metrics["chamfer_mm"] < 1e-5
        assert metrics["mae_deg"] < 5e-3
        assert max(metrics[key] for key in POSE_KEYS) < 1e-5
        inverse = gauge.inverse()
        assert metrics["similarity"]["scale"] == pytest.approx(inverse.scale, rel=1e-6)
        np.testing.assert_allclose(metrics["similarity"]["rotation"], inverse.rotation, atol=1e-6)


def test_icp_undoes_what_the_cameras_do_not_know_of() -> None:
    small = Rotation.from_rotvec(np.deg2rad([1.0, -2.0, 1.5])).as_matrix()
    fault = Similarity(1.02, small, np.array([1.0, -2.0, 1.5]))
    mesh = moved(GROUND_TRUTH, fault)
    assert score(mesh, setting=CAMERAS).metrics["chamfer_mm"] > 1.0
    metrics = score(mesh, setting=ICP).metrics
    assert metrics["chamfer_mm"] < 0.02
    assert metrics["similarity"]["scale"] == pytest.approx(1 / 1.02, rel=1e-3)
    # in the mesh's frame the (true) cameras are now off by the fault, in their own by nothing
    assert metrics["rotation_error_mean_deg"] == pytest.approx(
        np.linalg.norm([1, 2, 1.5]), rel=0.02
    )
    assert metrics["rotation_error_cameras_mean_deg"] < 1e-5


def test_icp_works_without_poses() -> None:
    fault = Similarity(1.01, np.eye(3), np.array([1.0, 0.5, -1.0]))
    metrics = evaluate(CAPTURE, moved(GROUND_TRUTH, fault), None, None, ICP).metrics
    assert metrics["chamfer_mm"] < 0.02
    assert all(metrics[key] is None for key in POSE_KEYS)


def test_pose_errors_of_known_faults() -> None:
    poses = rotate_cameras(reference_poses(CAPTURE), np.array([1.0, 1, 1, 1, 1, 1, 3]))
    c2w = poses.c2w.copy()
    c2w[:, 0, 3] += 0.01 * 18.75
    initial = rotate_cameras(reference_poses(CAPTURE), np.full(7, 5.0))
    metrics = score(poses=Poses(poses.views, c2w), initial=initial).metrics
    assert metrics["rotation_error_mean_deg"] == pytest.approx(9 / 7)
    assert metrics["rotation_error_max_deg"] == pytest.approx(3)
    assert metrics["translation_error_percent"] == pytest.approx(1)
    # the cameras' own frame takes the common shift away
    assert metrics["translation_error_cameras_percent"] < 1e-6
    assert metrics["rotation_error_cameras_mean_deg"] == pytest.approx(9 / 7)
    assert metrics["rotation_error_initial_mean_deg"] == pytest.approx(5)
    assert metrics["camera_alignment"] == "centres"


def test_cameras_in_a_line_are_aligned_by_their_rotations() -> None:
    two = reference_poses(CAPTURE).views[:2]
    poses = Poses(two, reference_poses(CAPTURE).c2w[:2])
    metrics = score(poses=poses, setting=CAMERAS).metrics
    assert metrics["camera_alignment"] == "rotations"
    assert metrics["chamfer_mm"] < 1e-6


def test_views_without_a_pose_do_not_count_for_the_poses() -> None:
    poses = rotate_cameras(reference_poses(CAPTURE), np.array([0.0, 0, 0, 0, 0, 0, 9.0]))
    kept = Poses(poses.views[:6], poses.c2w[:6])
    metrics = score(poses=kept, setting=ICP).metrics
    assert metrics["rotation_error_max_deg"] < 1e-5
    assert metrics["chamfer_mm"] < 1e-6


def test_held_out_views_are_reported_apart() -> None:
    assert CAPTURE.ground_truth_normals is not None
    normals = CAPTURE.ground_truth_normals.copy()
    # views 02 and 05: 6 degrees off, about an axis perpendicular to each normal
    for view in (2, 5):
        n = normals[view][CAPTURE.masks[view]].astype(float)
        axis = np.cross(n, [0.3, 0.2, 0.1])
        axis *= np.deg2rad(6) / np.linalg.norm(axis, axis=1, keepdims=True)
        normals[view][CAPTURE.masks[view]] = Rotation.from_rotvec(axis).apply(n)
    capture = dataclasses.replace(CAPTURE, ground_truth_normals=normals)
    setting = EvaluateSettings(alignment="none", exclude_views=("02", "05"))
    result = score(setting=setting, capture=capture)
    metrics = result.metrics
    assert metrics["mae_heldout_deg"] == pytest.approx(6, abs=1e-3)
    assert metrics["mae_training_deg"] < 2e-3
    share = CAPTURE.masks[[2, 5]].sum() / CAPTURE.masks.sum()
    assert metrics["mae_deg"] == pytest.approx(6 * share, abs=2e-3)
    # the maps say where
    errors = result.normal_error_deg
    assert errors.shape == CAPTURE.masks.shape
    np.testing.assert_array_equal(np.isfinite(errors), CAPTURE.masks)
    np.testing.assert_allclose(errors[2][CAPTURE.masks[2]], 6, atol=0.01)
    assert np.nanmax(errors[0]) < 0.01


def test_without_held_out_views_their_error_is_unknown() -> None:
    assert score().metrics["mae_heldout_deg"] is None


def test_without_true_normals_the_true_mesh_gives_them() -> None:
    capture = dataclasses.replace(CAPTURE, ground_truth_normals=None, normals=-CAPTURE.normals)
    metrics = score(capture=capture).metrics
    assert metrics["normals_compared_with"] == "ground_truth_mesh"
    assert metrics["mae_deg"] < 1e-6


def test_pixels_that_hit_nothing_are_missed_and_do_not_count() -> None:
    upper = GROUND_TRUTH.vertices[GROUND_TRUTH.faces].mean(1)[:, 2] > OFFSET[2]
    result = score(Mesh(GROUND_TRUTH.vertices, GROUND_TRUTH.faces[upper]))
    metrics = result.metrics
    assert 0.1 < metrics["missed"] < 0.6
    assert metrics["missed"] == pytest.approx(
        np.isnan(result.normal_error_deg[CAPTURE.masks]).mean()
    )
    assert metrics["watertight"] is False
    assert metrics["accuracy_mm"] < 1e-9
    assert metrics["completeness_mm"] > 5


@pytest.mark.parametrize("gauge", [False, True])
def test_without_ground_truth_the_normals_are_compared(gauge: bool) -> None:
    """Poses in a frame of their own, normals 3 degrees off."""
    n = CAPTURE.normals[CAPTURE.masks].astype(float)
    axis = np.cross(n, [0.3, 0.2, 0.1])
    axis *= np.deg2rad(3) / np.linalg.norm(axis, axis=1, keepdims=True)
    noisy = CAPTURE.normals.copy()
    noisy[CAPTURE.masks] = Rotation.from_rotvec(axis).apply(n)
    capture = dataclasses.replace(
        CAPTURE,
        normals=noisy,
        ground_truth_normals=None,
        ground_truth_mesh=None,
        reference_c2w=None,
    )
    similarity = Similarity.identity()
    if gauge:
        rotation = Rotation.from_rotvec([0.4, 1.0, -2.0]).as_matrix()
        similarity = Similarity(0.4, rotation, np.array([100.0, 30, -10]))
    poses = Poses(
        CAPTURE.views, in_normalised(similarity).move_cameras(reference_poses(CAPTURE).c2w)
    )
    poses = Poses(poses.views[1:], poses.c2w[1:])  # one view has none
    setting = EvaluateSettings(exclude_views=("03",))
    result = evaluate(capture, moved(GROUND_TRUTH, similarity), poses, poses, setting)
    metrics = result.metrics
    assert metrics["mae_deg"] == pytest.approx(3, abs=0.01)
    assert metrics["mae_heldout_deg"] == pytest.approx(3, abs=0.01)
    assert metrics["normals_compared_with"] == "input"
    assert metrics["alignment"] == "none"
    assert "no ground-truth mesh" in metrics["note"]
    nothing = ["chamfer_mm", "fscore_0.5", "accuracy_mm", "diameter_mm", *POSE_KEYS]
    assert all(metrics[key] is None for key in nothing)
    assert np.isnan(result.normal_error_deg[0]).all()
    np.testing.assert_allclose(result.normal_error_deg[1][CAPTURE.masks[1]], 3, atol=0.05)
    assert len(result.surface_distance_mm) == len(result.observed) == 0


def test_without_a_true_mesh_poses_are_still_compared() -> None:
    capture = dataclasses.replace(CAPTURE, ground_truth_mesh=None)
    gauge = Similarity(0.4, np.eye(3), np.array([100.0, 30, -10]))
    start = rotate_cameras(reference_poses(CAPTURE), np.full(7, 2.0))
    poses = Poses(CAPTURE.views, in_normalised(gauge).move_cameras(start.c2w))
    mesh = moved(GROUND_TRUTH, gauge)
    metrics = evaluate(capture, mesh, poses, start, ICP).metrics
    assert metrics["alignment"] == "cameras"
    assert metrics["rotation_error_mean_deg"] == pytest.approx(2, abs=1e-6)
    assert metrics["rotation_error_initial_mean_deg"] == pytest.approx(2, abs=1e-6)
    assert metrics["chamfer_mm"] is None


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown view": (
        {"setting": EvaluateSettings(exclude_views=("99",))},
        "unknown view '99'",
    ),
    "empty mesh": ({"mesh": Mesh(np.zeros((0, 3)), np.zeros((0, 3), int))}, "no faces"),
    "vertices that are not finite": (
        {"mesh": Mesh(GROUND_TRUTH.vertices * np.nan, GROUND_TRUTH.faces)},
        "not finite",
    ),
    "mesh elsewhere": (
        {"mesh": Mesh(GROUND_TRUTH.vertices + 900, GROUND_TRUTH.faces)},
        "no ray through the masks hits the mesh",
    ),
    "mesh elsewhere, ICP": (
        {"mesh": Mesh(GROUND_TRUTH.vertices + 900, GROUND_TRUTH.faces), "setting": ICP},
        "no ray through the masks hits the mesh, aligned by its cameras",
    ),
    "poses of other views": (
        {"poses": Poses(("x",), np.eye(4)[None]), "setting": CAMERAS},
        "none of the capture's views",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    arguments, message = ERRORS[name]
    with pytest.raises(InputError, match=message):
        score(**arguments)


def test_alignment_by_cameras_needs_poses() -> None:
    with pytest.raises(InputError, match="needs the estimated poses"):
        evaluate(CAPTURE, GROUND_TRUTH, None, None, CAMERAS)
    capture = dataclasses.replace(CAPTURE, ground_truth_mesh=None)
    with pytest.raises(InputError, match=r"lump: has no ground-truth mesh.*give --poses"):
        evaluate(capture, GROUND_TRUTH, None, None, NONE)
