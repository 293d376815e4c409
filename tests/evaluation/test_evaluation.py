"""The evaluator itself: truth scores zero, known faults score what they are."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from fixtures.evaluation_scene import OFFSET, ball, capture_of, in_normalised, lumpy, moved
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pmni.cli.evaluate import cost_of
from pmni.cli.main import main
from pmni.config.evaluation import EvaluateSettings
from pmni.data.capture import Capture, save_capture
from pmni.errors import InputError
from pmni.evaluation.evaluate import Evaluation, evaluate
from pmni.geometry.mesh import Mesh, vertex_normals
from pmni.geometry.poses import Poses
from pmni.geometry.transforms import Similarity
from pmni.io.ply import write_ply
from pmni.io.poses import write_poses

TRUTH = lumpy()
CAPTURE = capture_of(TRUTH)
NONE, CAMERAS, ICP = (EvaluateSettings(alignment=name) for name in ("none", "cameras", "icp"))
POSE_KEYS = ("rotation_error_mean_deg", "rotation_error_max_deg", "translation_error_percent")


def reference(capture: Capture = CAPTURE) -> Poses:
    assert capture.reference_c2w is not None
    return Poses(capture.views, capture.reference_c2w)


def score(
    mesh: Mesh = TRUTH,
    poses: Poses | None = None,
    setting: EvaluateSettings = NONE,
    capture: Capture = CAPTURE,
    initial: Poses | None = None,
) -> Evaluation:
    return evaluate(capture, mesh, poses or reference(capture), initial, setting)


def turned(poses: Poses, degrees: np.ndarray, axis: tuple = (0.0, 0.0, 1.0)) -> Poses:
    """Each camera turned about its own centre."""
    turn = Rotation.from_rotvec(np.deg2rad(degrees)[:, None] * np.array(axis)).as_matrix()
    c2w = poses.c2w.copy()
    c2w[:, :3, :3] = c2w[:, :3, :3] @ turn
    return Poses(poses.views, c2w)


@pytest.mark.parametrize("setting", [NONE, CAMERAS, ICP], ids=lambda s: s.alignment)
def test_truth_against_itself_is_zero(setting):
    found = score(setting=setting).metrics
    tolerance = 0 if setting is NONE else 1e-6
    assert found["chamfer_mm"] <= tolerance
    assert (found["fscore_0.5"], found["fscore_1.0"], found["missed"]) == (1, 1, 0)
    assert found["mae_deg"] < 2e-3  # float32 normals
    assert max(found[key] for key in POSE_KEYS) < 1e-6
    assert found["watertight"] is True
    assert found["vertices"] == len(TRUTH.vertices)
    assert found["normals_compared_with"] == "ground_truth_normals"


@pytest.mark.parametrize("offset", [2.0, -3.0])
def test_a_known_offset_gives_the_known_chamfer(offset):
    # rays 0.45 mm apart, so that the nearest sample is nearly the nearest point
    capture = capture_of(ball(60.0), views=3, height=448, width=448)
    found = score(ball(60.0 + offset), capture=capture)
    assert found.metrics["chamfer_mm"] == pytest.approx(abs(offset), rel=0.03)
    assert found.metrics["fscore_0.5"] == 0.0
    assert score(ball(60.3), capture=capture).metrics["fscore_0.5"] > 0.95
    assert found.metrics["mae_deg"] < 4
    observed = found.observed
    assert 0.5 < observed.mean() < 0.95  # nobody looks from below
    # but for a few vertices at the lower rim of what is seen of the truth
    most = np.percentile(found.surface_distance_mm[observed], [0, 99])
    np.testing.assert_allclose(most, abs(offset), atol=0.03)
    assert found.metrics["diameter_mm"] == pytest.approx(120, abs=0.01)
    percent = 100 * found.metrics["chamfer_mm"] / found.metrics["diameter_mm"]
    assert found.metrics["chamfer_percent"] == pytest.approx(percent)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10_000))
def test_any_gauge_of_mesh_and_poses_is_undone(seed):
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(random_state=rng).as_matrix()
    gauge = Similarity(float(np.exp(rng.normal(0, 0.7))), rotation, rng.normal(0, 300, 3))
    poses = Poses(CAPTURE.views, in_normalised(gauge).move_cameras(reference().c2w))
    for setting in (CAMERAS, ICP):
        found = score(moved(TRUTH, gauge), poses, setting).metrics
        assert found["chamfer_mm"] < 1e-5
        assert found["mae_deg"] < 5e-3
        assert max(found[key] for key in POSE_KEYS) < 1e-5
        inverse = gauge.inverse()
        assert found["similarity"]["scale"] == pytest.approx(inverse.scale, rel=1e-6)
        np.testing.assert_allclose(found["similarity"]["rotation"], inverse.rotation, atol=1e-6)


def test_icp_undoes_what_the_cameras_do_not_know_of():
    small = Rotation.from_rotvec(np.deg2rad([1.0, -2.0, 1.5])).as_matrix()
    fault = Similarity(1.02, small, np.array([1.0, -2.0, 1.5]))
    mesh = moved(TRUTH, fault)
    assert score(mesh, setting=CAMERAS).metrics["chamfer_mm"] > 1.0
    found = score(mesh, setting=ICP).metrics
    assert found["chamfer_mm"] < 0.02
    assert found["similarity"]["scale"] == pytest.approx(1 / 1.02, rel=1e-3)
    # in the mesh's frame the (true) cameras are now off by the fault, in their own by nothing
    assert found["rotation_error_mean_deg"] == pytest.approx(np.linalg.norm([1, 2, 1.5]), rel=0.02)
    assert found["rotation_error_cameras_mean_deg"] < 1e-5


def test_icp_works_without_poses():
    fault = Similarity(1.01, np.eye(3), np.array([1.0, 0.5, -1.0]))
    found = evaluate(CAPTURE, moved(TRUTH, fault), None, None, ICP).metrics
    assert found["chamfer_mm"] < 0.02
    assert all(found[key] is None for key in POSE_KEYS)


def test_pose_errors_of_known_faults():
    poses = turned(reference(), np.array([1.0, 1, 1, 1, 1, 1, 3]))
    c2w = poses.c2w.copy()
    c2w[:, 0, 3] += 0.01 * 18.75
    initial = turned(reference(), np.full(7, 5.0))
    found = score(poses=Poses(poses.views, c2w), initial=initial).metrics
    assert found["rotation_error_mean_deg"] == pytest.approx(9 / 7)
    assert found["rotation_error_max_deg"] == pytest.approx(3)
    assert found["translation_error_percent"] == pytest.approx(1)
    # the cameras' own frame takes the common shift away
    assert found["translation_error_cameras_percent"] < 1e-6
    assert found["rotation_error_cameras_mean_deg"] == pytest.approx(9 / 7)
    assert found["rotation_error_initial_mean_deg"] == pytest.approx(5)
    assert found["camera_alignment"] == "centres"


def test_cameras_in_a_line_are_aligned_by_their_rotations():
    two = reference().views[:2]
    poses = Poses(two, reference().c2w[:2])
    found = score(poses=poses, setting=CAMERAS).metrics
    assert found["camera_alignment"] == "rotations"
    assert found["chamfer_mm"] < 1e-6


def test_views_without_a_pose_do_not_count_for_the_poses():
    poses = turned(reference(), np.array([0.0, 0, 0, 0, 0, 0, 9.0]))
    kept = Poses(poses.views[:6], poses.c2w[:6])
    found = score(poses=kept, setting=ICP).metrics
    assert found["rotation_error_max_deg"] < 1e-5
    assert found["chamfer_mm"] < 1e-6


def test_held_out_views_are_reported_apart():
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
    found = result.metrics
    assert found["mae_heldout_deg"] == pytest.approx(6, abs=1e-3)
    assert found["mae_training_deg"] < 2e-3
    share = CAPTURE.masks[[2, 5]].sum() / CAPTURE.masks.sum()
    assert found["mae_deg"] == pytest.approx(6 * share, abs=2e-3)
    # the maps say where
    errors = result.normal_error_deg
    assert errors.shape == CAPTURE.masks.shape
    np.testing.assert_array_equal(np.isfinite(errors), CAPTURE.masks)
    np.testing.assert_allclose(errors[2][CAPTURE.masks[2]], 6, atol=0.01)
    assert np.nanmax(errors[0]) < 0.01


def test_without_held_out_views_their_error_is_unknown():
    assert score().metrics["mae_heldout_deg"] is None


def test_without_true_normals_the_true_mesh_gives_them():
    capture = dataclasses.replace(CAPTURE, ground_truth_normals=None, normals=-CAPTURE.normals)
    found = score(capture=capture).metrics
    assert found["normals_compared_with"] == "ground_truth_mesh"
    assert found["mae_deg"] < 1e-6


def test_pixels_that_hit_nothing_are_missed_and_do_not_count():
    upper = TRUTH.vertices[TRUTH.faces].mean(1)[:, 2] > OFFSET[2]
    result = score(Mesh(TRUTH.vertices, TRUTH.faces[upper]))
    found = result.metrics
    assert 0.1 < found["missed"] < 0.6
    assert found["missed"] == pytest.approx(np.isnan(result.normal_error_deg[CAPTURE.masks]).mean())
    assert found["watertight"] is False
    assert found["accuracy_mm"] < 1e-9
    assert found["completeness_mm"] > 5


@pytest.mark.parametrize("gauge", [False, True])
def test_without_ground_truth_the_normals_are_compared(gauge):
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
        ground_truth_vertices=None,
        ground_truth_faces=None,
        reference_c2w=None,
    )
    similarity = Similarity.identity()
    if gauge:
        rotation = Rotation.from_rotvec([0.4, 1.0, -2.0]).as_matrix()
        similarity = Similarity(0.4, rotation, np.array([100.0, 30, -10]))
    poses = Poses(CAPTURE.views, in_normalised(similarity).move_cameras(reference().c2w))
    poses = Poses(poses.views[1:], poses.c2w[1:])  # one view has none
    setting = EvaluateSettings(exclude_views=("03",))
    result = evaluate(capture, moved(TRUTH, similarity), poses, poses, setting)
    found = result.metrics
    assert found["mae_deg"] == pytest.approx(3, abs=0.01)
    assert found["mae_heldout_deg"] == pytest.approx(3, abs=0.01)
    assert found["normals_compared_with"] == "input"
    assert found["alignment"] == "none"
    assert "no ground-truth mesh" in found["note"]
    nothing = ["chamfer_mm", "fscore_0.5", "accuracy_mm", "diameter_mm", *POSE_KEYS]
    assert all(found[key] is None for key in nothing)
    assert np.isnan(result.normal_error_deg[0]).all()
    np.testing.assert_allclose(result.normal_error_deg[1][CAPTURE.masks[1]], 3, atol=0.05)
    assert len(result.surface_distance_mm) == len(result.observed) == 0


def test_without_a_true_mesh_poses_are_still_compared():
    capture = dataclasses.replace(CAPTURE, ground_truth_vertices=None, ground_truth_faces=None)
    gauge = Similarity(0.4, np.eye(3), np.array([100.0, 30, -10]))
    start = turned(reference(), np.full(7, 2.0))
    poses = Poses(CAPTURE.views, in_normalised(gauge).move_cameras(start.c2w))
    mesh = moved(TRUTH, gauge)
    found = evaluate(capture, mesh, poses, start, ICP).metrics
    assert found["alignment"] == "cameras"
    assert found["rotation_error_mean_deg"] == pytest.approx(2, abs=1e-6)
    assert found["rotation_error_initial_mean_deg"] == pytest.approx(2, abs=1e-6)
    assert found["chamfer_mm"] is None


ERRORS = {
    "unknown view": (
        {"setting": EvaluateSettings(exclude_views=("99",))},
        "unknown view '99'",
    ),
    "empty mesh": ({"mesh": Mesh(np.zeros((0, 3)), np.zeros((0, 3), int))}, "no faces"),
    "vertices that are not finite": (
        {"mesh": Mesh(TRUTH.vertices * np.nan, TRUTH.faces)},
        "not finite",
    ),
    "mesh elsewhere": (
        {"mesh": Mesh(TRUTH.vertices + 900, TRUTH.faces)},
        "no ray through the masks hits the mesh",
    ),
    "mesh elsewhere, ICP": (
        {"mesh": Mesh(TRUTH.vertices + 900, TRUTH.faces), "setting": ICP},
        "no ray through the masks hits the mesh, aligned by its cameras",
    ),
    "poses of other views": (
        {"poses": Poses(("x",), np.eye(4)[None]), "setting": CAMERAS},
        "none of the capture's views",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    arguments, message = ERRORS[name]
    with pytest.raises(InputError, match=message):
        score(**arguments)


def test_alignment_by_cameras_needs_poses():
    with pytest.raises(InputError, match="needs the estimated poses"):
        evaluate(CAPTURE, TRUTH, None, None, CAMERAS)
    capture = dataclasses.replace(CAPTURE, ground_truth_vertices=None, ground_truth_faces=None)
    with pytest.raises(InputError, match=r"lump: has no ground-truth mesh.*give --poses"):
        evaluate(capture, TRUTH, None, None, NONE)


@pytest.fixture
def files(tmp_path):
    """A capture, a mesh 1 mm too large, poses, and provenance of two stages."""
    save_capture(tmp_path / "capture", CAPTURE)
    larger = Mesh(TRUTH.vertices + vertex_normals(TRUTH), TRUTH.faces)
    write_ply(tmp_path / "mesh.ply", larger)
    write_poses(tmp_path / "poses.json", reference())
    write_poses(tmp_path / "initial.json", turned(reference(), np.full(7, 2.0)))
    hardware = {"processor": "A processor", "gpu": "A GPU"}
    register = {"stage": "register", "seconds": 2.5, "peak_memory_mb": 900.0, "hardware": hardware}
    train = {"stage": "train", "seconds": 60.25, "peak_memory_mb": 700.0, "hardware": hardware}
    train |= {"device": "cuda:0", "backend": "torch", "commit": "0123abc"}
    (tmp_path / "register.json").write_text(json.dumps(register))
    (tmp_path / "train.json").write_text(json.dumps(train))
    return tmp_path


def command(files: Path, **changed) -> list[str]:
    options = {
        "capture": files / "capture",
        "mesh": files / "mesh.ply",
        "poses": files / "poses.json",
        "initial-poses": files / "initial.json",
        "settings": '{"alignment": "none"}',
        "experiment": "calibrated",
        "iteration": 1000,
        "dataset": "demo",
        "output": files / "metrics/iter_00001000.json",
    } | changed
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    provenance = [str(files / "register.json"), str(files / "train.json")]
    return ["evaluate", *words, "--provenance", *provenance]


def test_the_stage_writes_metrics_and_maps(files):
    assert main(command(files)) == 0
    row = json.loads((files / "metrics/iter_00001000.json").read_text())
    identity = [row[key] for key in ("dataset", "object", "experiment", "iteration", "source")]
    assert identity == ["demo", "lump", "calibrated", 1000, "ours"]
    # points lie 3 mm apart here, so the nearest is not straight opposite
    assert 1.0 < row["chamfer_mm"] < 1.5
    assert row["rotation_error_initial_mean_deg"] == pytest.approx(2)
    assert (row["train_seconds"], row["total_seconds"]) == (60.25, 62.75)
    assert (row["peak_memory_mb"], row["device"], row["backend"]) == (900.0, "A GPU", "torch")
    assert row["commit"] == "0123abc"
    maps = np.load(files / "metrics/iter_00001000.errors.npz")
    assert maps["views"].tolist() == list(CAPTURE.views)
    assert maps["normal_error_deg"].dtype == np.float16
    assert maps["normal_error_deg"].shape == CAPTURE.masks.shape
    assert maps["surface_distance_mm"].shape == maps["seen"].shape == (len(TRUTH.vertices),)
    assert np.median(maps["surface_distance_mm"]) == pytest.approx(1, abs=0.05)
    said = json.loads((files / "metrics/iter_00001000.provenance.json").read_text())
    assert said["stage"] == "evaluate"
    assert set(said["inputs"]) == {"capture", "mesh", "poses", "initial_poses"}


def test_any_mesh_can_be_scored_without_poses(files):
    trimesh.Trimesh(TRUTH.vertices, TRUTH.faces).export(files / "other.obj")
    words = ["evaluate", "--capture", str(files / "capture"), "--mesh", str(files / "other.obj")]
    words += ["--settings", "{alignment: none}", "--output", str(files / "other.json")]
    assert main(words) == 0
    row = json.loads((files / "other.json").read_text())
    assert row["chamfer_mm"] < 1e-4
    assert row["train_seconds"] is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mesh": "absent.ply"}, "absent.ply: no such file"),
        ({"mesh": "broken.ply"}, "broken.ply: cannot be read as a mesh"),
        ({"poses": "broken.ply"}, "broken.ply: not a pose file"),
        ({"settings": "{alignmant: none}"}, "unknown key 'alignmant'"),
        ({"settings": "{alignment: best}"}, "'alignment'"),
    ],
)
def test_the_stage_leaves_nothing_when_it_fails(files, capsys, changed, message):
    (files / "broken.ply").write_text("ply\nformat none\n")
    named = {key: value if key == "settings" else files / value for key, value in changed.items()}
    assert main(command(files, **named)) == 2
    assert message in capsys.readouterr().err
    assert not (files / "metrics").exists()


def test_cost_of_stages(files):
    assert set(cost_of([]).values()) == {None}
    cpu = json.loads((files / "train.json").read_text()) | {"device": "cpu"}
    (files / "cpu.json").write_text(json.dumps(cpu))
    assert cost_of([files / "cpu.json"])["device"] == "A processor"
    assert cost_of([files / "register.json"])["train_seconds"] is None
    refined = json.loads((files / "train.json").read_text())
    refined |= {"stage": "refine", "seconds": 5.5, "device": "cpu"}
    (files / "refine.json").write_text(json.dumps(refined))
    alone = cost_of([files / "refine.json"])
    assert (alone["refine_seconds"], alone["train_seconds"]) == (5.5, None)
    assert alone["device"] == "A processor"
    both = cost_of([files / "refine.json", files / "train.json"])
    assert (both["refine_seconds"], both["total_seconds"]) == (5.5, 65.75)
    assert both["device"] == "A GPU"  # of the training


@pytest.mark.parametrize(("name", "message"), [("no.json", "cannot be read"), ("bad", "not a pro")])
def test_provenance_that_cannot_be_read(files, name, message):
    (files / "bad").write_text("{")
    with pytest.raises(InputError, match=f"{name}: {message}"):
        cost_of([files / name])
