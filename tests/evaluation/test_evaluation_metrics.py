"""The measures, by hand."""

import itertools

import numpy as np
import pytest
from fixtures.evaluation_scene import ball, lumpy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import distance
from scipy.spatial.transform import Rotation

from pmni.errors import InputError
from pmni.evaluation.alignment import align_cameras, align_rotations, closest, icp, pose_errors
from pmni.evaluation.metrics import (
    angle_deg,
    diameter,
    distance_to_surface,
    distance_to_triangles,
    nearest,
    point_tree,
    surface_errors,
)
from pmni.evaluation.surface import Rays, Target, look, mask_rays
from pmni.geometry.cameras import turntable
from pmni.geometry.mesh import Mesh, vertex_normals
from pmni.geometry.transforms import Similarity


def errors_of(mesh: list, truth: list):
    return surface_errors(point_tree(np.array(mesh, float)), point_tree(np.array(truth, float)))


def test_chamfer_by_hand():
    # mesh to truth: 0, 1, 3 (to the truth's last); truth to mesh: 0, 2
    found = errors_of([[0, 0, 0], [1, 0, 0], [4, 3, 0]], [[0, 0, 0], [4, 0, 0]])
    assert sorted(found.to_truth) == [0, 1, 3]
    assert sorted(found.to_mesh) == [0, 3]
    assert found.accuracy == pytest.approx(4 / 3)
    assert found.completeness == pytest.approx(1.5)
    assert found.chamfer == pytest.approx((4 / 3 + 1.5) / 2)


def test_fscore_by_hand():
    found = errors_of([[0, 0, 0], [1, 0, 0], [4, 3, 0]], [[0, 0, 0], [4, 0, 0]])
    # precision 1/3, recall 1/2
    assert found.fscore(0.5) == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    # nearer than, not as near as: at 1 the second point does not count yet
    assert found.fscore(1.0) == found.fscore(0.5)
    assert found.fscore(1.001) == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert found.fscore(3.5) == 1.0


def test_fscore_of_nothing_near():
    assert errors_of([[0, 0, 0]], [[9, 0, 0]]).fscore(1.0) == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 1000))
def test_nearest_is_exact(count, sought, seed):
    rng = np.random.default_rng(seed)
    points, queries = rng.normal(size=(count, 3)), rng.normal(size=(sought, 3))
    exact = np.linalg.norm(points[None] - queries[:, None], axis=-1).min(1)
    tree = point_tree(points)
    np.testing.assert_allclose(nearest(tree, queries), exact, atol=1e-12)
    np.testing.assert_allclose(
        nearest(tree, queries, within=0.3), np.where(exact < 0.3, exact, np.inf), atol=1e-12
    )


def test_angles_are_accurate_when_small_and_when_large():
    a = np.tile([0.0, 0, 1], (4, 1))
    angles = np.deg2rad([1e-6, 30, 90, 180])
    b = np.column_stack([np.sin(angles), np.zeros(4), np.cos(angles)])
    np.testing.assert_allclose(angle_deg(a, b), [1e-6, 30, 90, 180], rtol=1e-9)
    np.testing.assert_allclose(angle_deg(5 * a, b), angle_deg(a, b), rtol=1e-12)


@pytest.mark.parametrize(
    ("point", "distance"),
    [
        ((0.2, 0.2, 0.7), 0.7),  # above the inside
        ((0.2, 0.2, -0.7), 0.7),
        ((-1, -1, 1), np.sqrt(3)),  # off a corner
        ((0.5, -2, 0), 2),  # off a side
        ((1, 1, 0), np.sqrt(0.5)),  # off the long side
        ((1, 0, 0), 0),
    ],
)
def test_distance_to_a_triangle(point, distance):
    triangle = np.array([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]])
    for order in ([0, 1, 2], [2, 1, 0]):
        found = distance_to_triangles(np.array([point], float), triangle[:, order])
        assert found[0] == pytest.approx(distance, abs=1e-12)


def test_distance_to_a_triangle_without_area():
    needle = np.array([[[0.0, 0, 0], [2, 0, 0], [1, 0, 0]], [[1.0, 1, 1]] * 3])
    found = distance_to_triangles(np.array([[1.0, 3, 0], [1, 1, 3]]), needle)
    np.testing.assert_allclose(found, [3, 2])


def test_distance_to_a_surface_is_to_its_triangles_not_its_samples():
    mesh = ball(10.0, 3)
    corners = mesh.vertices[mesh.faces]
    samples = point_tree(corners.mean(1))
    beside = corners.mean(1) + 0.05 * (corners[:, 1] - corners[:, 0])
    assert nearest(samples, beside).min() > 0.01
    found = distance_to_surface(beside, samples, np.arange(len(corners)), corners)
    assert found.max() < 1e-9


def straight(origin: list, directions: list) -> Rays:
    directions_array = np.array(directions, float)
    directions_array /= np.linalg.norm(directions_array, axis=1, keepdims=True)
    return Rays(np.zeros(len(directions), int), np.array([origin], float), directions_array)


TILE = Mesh(
    np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 50], [4, 0, 50], [0, 4, 50]]),
    np.array([[0, 1, 2], [3, 4, 5]]),
)


def test_rays_hit_the_nearer_surface_and_miss_beside_it():
    seen = look(TILE, straight([1, 1, -1500], [[0, 0, 1], [1, 0, 1500], [1, 0, 1]]))
    assert seen.hit.tolist() == [True, True, False]
    np.testing.assert_allclose(seen.points, [[1, 1, 0], [2, 1, 0]], atol=1e-12)
    assert seen.triangle.tolist() == [0, 0]
    np.testing.assert_allclose(seen.normals, [[0, 0, 1]] * 2, atol=1e-12)


def test_some_rays_meet_what_they_meet_among_all():
    target = Target(TILE)
    rays = straight([1, 1, -1500], [[1, 0, 1], [0, 0, 1], [5, 0, 1500], [1, 0, 1500]])
    triangle = target.first(rays)
    assert triangle.tolist() == [-1, 0, -1, 0]
    points, weights = target.meet(rays, np.array([3, 1]), triangle[[3, 1]])
    np.testing.assert_allclose(points, [[2, 1, 0], [1, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(weights, [[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]], atol=1e-12)


def test_hits_are_exact_far_from_the_origin():
    # 1e5 mm away, where float32 resolves 0.01 mm
    mesh = lumpy(4)
    shift = np.array([1e5, -2e5, 3e5])
    far = Mesh(mesh.vertices + shift, mesh.faces)
    centre = mesh.vertices.mean(0)
    rng = np.random.default_rng(0)
    directions = centre + rng.normal(size=(500, 3)) * 15 - [0, 0, -1500.0]
    rays = straight([0, 0, -1500.0], directions.tolist())
    here = look(mesh, rays)
    there = look(far, Rays(rays.view, rays.centres + shift, rays.directions))
    assert here.hit.sum() > 450
    np.testing.assert_array_equal(there.hit, here.hit)
    np.testing.assert_allclose(there.points - shift, here.points, atol=1e-6)


def test_normals_are_interpolated_between_vertices():
    mesh = ball(60.0, 4)
    centre = mesh.vertices.mean(0)
    rng = np.random.default_rng(1)
    target = centre + rng.normal(size=(300, 3)) * 15
    origin = centre - [0, 1500, 0]
    seen = look(mesh, straight(origin.tolist(), (target - origin).tolist()))
    exact = (seen.points - centre) / np.linalg.norm(seen.points - centre, axis=1, keepdims=True)
    assert angle_deg(seen.normals, exact).max() < 0.2  # faces differ by 2 degrees
    np.testing.assert_allclose(np.linalg.norm(seen.normals, axis=1), 1)
    assert angle_deg(vertex_normals(mesh), mesh.vertices - centre).max() < 0.2


def test_rays_go_through_the_pixels_of_the_masks():
    masks = np.zeros((2, 3, 4), bool)
    masks[0, 2, 1] = masks[1, 0, 3] = masks[1, 1, 0] = True
    K = np.array([[2.0, 0, 1], [0, 4.0, 1], [0, 0, 1]])
    c2w = np.tile(np.eye(4), (2, 1, 1))
    c2w[1, :3, :3] = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    c2w[1, :3, 3] = [7, 8, 9]
    rays = mask_rays(masks, np.stack([K, K]), c2w)
    assert rays.view.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(rays.centres, [[0, 0, 0], [7, 8, 9]])
    expected = np.array([[0, 0.25, 1], [0.25, 1, 1], [0, -0.5, 1]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(rays.directions, expected, atol=1e-12)


def ring(count: int, arc: float = 2 * np.pi) -> np.ndarray:
    return turntable(np.arange(count) * arc / count, 0.4, 15.0)


def random_similarity(rng: np.random.Generator) -> Similarity:
    rotation = Rotation.random(random_state=rng).as_matrix()
    return Similarity(float(np.exp(rng.normal())), rotation, rng.normal(size=3) * 10)


def assert_same(a: Similarity, b: Similarity, tolerance: float = 1e-8) -> None:
    assert a.scale == pytest.approx(b.scale, rel=tolerance)
    np.testing.assert_allclose(a.rotation, b.rotation, atol=tolerance)
    np.testing.assert_allclose(a.shift, b.shift, atol=20 * tolerance)


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 12), st.integers(0, 10_000))
def test_cameras_recover_any_similarity(count, seed):
    true = random_similarity(np.random.default_rng(seed))
    estimated = true.inverse().move_cameras(ring(count))
    found, method = align_cameras(estimated, ring(count))
    assert method == "centres"
    assert_same(found, true)
    assert_same(align_rotations(estimated, ring(count)), true)


@pytest.mark.parametrize("count", [2, 5])
def test_cameras_on_a_line_are_aligned_by_their_rotations(count):
    c2w = ring(count, 0.5)
    c2w[:, :3, 3] = np.linspace([0, -9.0, 1], [3, -9.0, 1], count)
    true = random_similarity(np.random.default_rng(3))
    found, method = align_cameras(true.inverse().move_cameras(c2w), c2w)
    assert method == "rotations"
    assert_same(found, true)


def test_one_camera_leaves_the_scale_alone():
    true = random_similarity(np.random.default_rng(4))
    found, method = align_cameras(true.inverse().move_cameras(ring(1)), ring(1))
    assert (method, found.scale) == ("rotations", 1.0)
    np.testing.assert_allclose(found.rotation, true.rotation, atol=1e-12)


def test_pose_errors_of_known_faults():
    reference = ring(6)
    estimated = reference.copy()
    angles = np.array([1.0, 2, 3, 0, 0, 0])
    turn = Rotation.from_rotvec(np.deg2rad(angles)[:, None] * [0, 0.6, 0.8]).as_matrix()
    estimated[:, :3, :3] = estimated[:, :3, :3] @ turn
    estimated[1, :3, 3] += [0.09, 0.12, 0]  # 0.15 of 15: 1 percent
    found = pose_errors(estimated, reference, Similarity.identity(), np.zeros(3))
    np.testing.assert_allclose(found.rotation_deg, angles, atol=1e-9)
    np.testing.assert_allclose(found.translation_percent, [0, 1, 0, 0, 0, 0], atol=1e-9)


def test_pose_errors_are_relative_to_the_distance_from_the_object():
    reference, shift = ring(6), np.array([100.0, 0, 0])
    away = Similarity(1.0, np.eye(3), shift).move_cameras(reference)
    off = away.copy()
    off[:, 2, 3] += 0.3
    found = pose_errors(off, away, Similarity.identity(), shift)
    np.testing.assert_allclose(found.translation_percent, 2.0)


def surface_samples(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of the lumpy body and their normals."""
    mesh = lumpy(5)
    chosen = np.random.default_rng(seed).choice(len(mesh.vertices), count, replace=False)
    return mesh.vertices[chosen], vertex_normals(mesh)[chosen]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_icp_recovers_a_small_similarity(seed):
    rng = np.random.default_rng(seed)
    points, normals = surface_samples(8000)
    axis = rng.normal(size=3)
    rotation = Rotation.from_rotvec(np.deg2rad(4) * axis / np.linalg.norm(axis)).as_matrix()
    centre = points.mean(0)
    true = Similarity(float(np.exp(rng.normal(0, 0.03))), rotation, centre - rotation @ centre)
    true = Similarity(1.0, np.eye(3), rng.normal(0, 1.5, 3)) @ true
    moved = true.inverse()(surface_samples(3000, 1)[0])
    found = icp(moved, point_tree(points), normals, Similarity.identity())
    assert found.scale == pytest.approx(true.scale, rel=2e-4)
    np.testing.assert_allclose(found.rotation, true.rotation, atol=1e-3)
    np.testing.assert_allclose(found(moved), true(moved), atol=0.05)


def test_icp_is_not_drawn_by_the_worst_tenth():
    points, normals = surface_samples(8000)
    some = points[:3000].copy()
    some[:200] += 30 * normals[:200]
    found = icp(some, point_tree(points), normals, Similarity.identity())
    assert np.abs(found(points) - points).max() < 1e-3


def test_icp_leaves_what_a_sphere_does_not_fix():
    sphere = ball(60.0, 5)
    tree, normals = point_tree(sphere.vertices), vertex_normals(sphere)
    shifted = Similarity(1.02, np.eye(3), np.array([1.0, -1, 2]))
    found = icp(shifted(sphere.vertices[::3]), tree, normals, Similarity.identity())
    moved = (found @ shifted)(sphere.vertices)
    radius = np.linalg.norm(moved - sphere.vertices.mean(0), axis=1)
    np.testing.assert_allclose(radius, 60, atol=0.05)
    assert np.trace(found.rotation) > 3 - 1e-3


def test_icp_that_runs_away_is_an_error():
    points, normals = surface_samples(3000)
    far = Similarity(1e-3, np.eye(3), np.array([0.0, 0, 5000]))
    with pytest.raises(InputError, match="runs away"):
        icp(points, point_tree(points), normals, far)


def test_the_closer_start_is_taken():
    points, _ = surface_samples(2000)
    near = Similarity(1.0, np.eye(3), np.array([1.0, 0, 0]))
    wrong = Similarity(1.0, Rotation.from_euler("x", 90, degrees=True).as_matrix(), np.zeros(3))
    assert closest([wrong, near], points, point_tree(points)) is near


def test_diameter():
    corners = np.array(list(itertools.product([0, 3.0], [0, 4.0], [0, 12.0])))
    inner = np.random.default_rng(0).uniform(0, 3, (500, 3))
    assert diameter(np.vstack([inner, corners])) == pytest.approx(13.0)
    flat = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 0]])
    assert diameter(flat) == pytest.approx(np.sqrt(2))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.booleans(), st.integers(0, 10_000))
def test_diameter_is_exact(count, on_a_sphere, seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3)) * np.exp(2 * rng.normal(size=3))
    if on_a_sphere:  # where no point is inside
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    points += 100 * rng.normal(size=3)
    assert diameter(points) == pytest.approx(distance.cdist(points, points).max(), rel=1e-12)
