"""Distances, F-score and angles, by hand."""

import itertools

import numpy as np
import pytest
from fixtures.evaluation_scene import ball
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import distance as distances

from pmni.evaluation.distances import (
    SurfaceErrors,
    angle_deg,
    diameter,
    distance_to_surface,
    distance_to_triangles,
    nearest_distance,
    point_tree,
    surface_errors,
)


def errors_of(mesh: list[list[float]], ground_truth: list[list[float]]) -> SurfaceErrors:
    trees = (point_tree(np.array(points, float)) for points in (mesh, ground_truth))
    return surface_errors(*trees)


def test_chamfer_by_hand() -> None:
    # mesh to ground truth: 0, 1, 3 (to its last point); ground truth to mesh: 0, 3
    found = errors_of([[0, 0, 0], [1, 0, 0], [4, 3, 0]], [[0, 0, 0], [4, 0, 0]])
    assert sorted(found.to_ground_truth) == [0, 1, 3]
    assert sorted(found.to_mesh) == [0, 3]
    assert found.accuracy == pytest.approx(4 / 3)
    assert found.completeness == pytest.approx(1.5)
    assert found.chamfer == pytest.approx((4 / 3 + 1.5) / 2)


def test_fscore_by_hand() -> None:
    found = errors_of([[0, 0, 0], [1, 0, 0], [4, 3, 0]], [[0, 0, 0], [4, 0, 0]])
    # precision 1/3, recall 1/2
    assert found.fscore(0.5) == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    # nearer than, not as near as: at 1 the second point does not count yet
    assert found.fscore(1.0) == found.fscore(0.5)
    assert found.fscore(1.001) == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert found.fscore(3.5) == 1.0


def test_fscore_of_nothing_near() -> None:
    assert errors_of([[0, 0, 0]], [[9, 0, 0]]).fscore(1.0) == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 1000))
def test_nearest_is_exact(count: int, sought: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, queries = rng.normal(size=(count, 3)), rng.normal(size=(sought, 3))
    exact = np.linalg.norm(points[None] - queries[:, None], axis=-1).min(1)
    tree = point_tree(points)
    np.testing.assert_allclose(nearest_distance(tree, queries), exact, atol=1e-12)
    np.testing.assert_allclose(
        nearest_distance(tree, queries, within=0.3),
        np.where(exact < 0.3, exact, np.inf),
        atol=1e-12,
    )


def test_angles_are_accurate_when_small_and_when_large() -> None:
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
def test_distance_to_a_triangle(point: tuple[float, float, float], distance: float) -> None:
    triangle = np.array([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]])
    for order in ([0, 1, 2], [2, 1, 0]):
        found = distance_to_triangles(np.array([point], float), triangle[:, order])
        assert found[0] == pytest.approx(distance, abs=1e-12)


def test_distance_to_a_triangle_without_area() -> None:
    needle = np.array([[[0.0, 0, 0], [2, 0, 0], [1, 0, 0]], [[1.0, 1, 1]] * 3])
    found = distance_to_triangles(np.array([[1.0, 3, 0], [1, 1, 3]]), needle)
    np.testing.assert_allclose(found, [3, 2])


def test_distance_to_a_surface_is_to_its_triangles_not_its_samples() -> None:
    mesh = ball(10.0, 3)
    corners = mesh.vertices[mesh.faces]
    samples = point_tree(corners.mean(1))
    beside = corners.mean(1) + 0.05 * (corners[:, 1] - corners[:, 0])
    assert nearest_distance(samples, beside).min() > 0.01
    found = distance_to_surface(beside, samples, np.arange(len(corners)), corners)
    assert found.max() < 1e-9


def test_diameter() -> None:
    corners = np.array(list(itertools.product([0, 3.0], [0, 4.0], [0, 12.0])))
    inner = np.random.default_rng(0).uniform(0, 3, (500, 3))
    assert diameter(np.vstack([inner, corners])) == pytest.approx(13.0)
    flat = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 0]])
    assert diameter(flat) == pytest.approx(np.sqrt(2))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.booleans(), st.integers(0, 10_000))
def test_diameter_is_exact(count: int, on_a_sphere: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3)) * np.exp(2 * rng.normal(size=3))
    if on_a_sphere:  # where no point is inside
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    points += 100 * rng.normal(size=3)
    assert diameter(points) == pytest.approx(distances.cdist(points, points).max(), rel=1e-12)
