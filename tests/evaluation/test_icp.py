"""ICP recovers small similarities, also with outliers."""

import numpy as np
import pytest
from fixtures.evaluation_scene import ball, lumpy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pmni.config.evaluation import ICPSettings
from pmni.errors import InputError
from pmni.evaluation.distances import point_tree
from pmni.evaluation.icp import closest_start, icp
from pmni.geometry.mesh import vertex_normals
from pmni.geometry.transforms import Similarity


def surface_samples(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of the lumpy body and their normals."""
    mesh = lumpy(5)
    chosen = np.random.default_rng(seed).choice(len(mesh.vertices), count, replace=False)
    return mesh.vertices[chosen], vertex_normals(mesh)[chosen]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_icp_recovers_a_small_similarity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, normals = surface_samples(8000)
    axis = rng.normal(size=3)
    rotation = Rotation.from_rotvec(np.deg2rad(4) * axis / np.linalg.norm(axis)).as_matrix()
    centre = points.mean(0)
    true = Similarity(float(np.exp(rng.normal(0, 0.03))), rotation, centre - rotation @ centre)
    true = Similarity(1.0, np.eye(3), rng.normal(0, 1.5, 3)) @ true
    moved = true.inverse()(surface_samples(3000, 1)[0])
    found = icp(moved, point_tree(points), normals, Similarity.identity(), ICPSettings())
    assert found.scale == pytest.approx(true.scale, rel=2e-4)
    np.testing.assert_allclose(found.rotation, true.rotation, atol=1e-3)
    np.testing.assert_allclose(found(moved), true(moved), atol=0.05)


def test_icp_is_not_drawn_by_the_worst_tenth() -> None:
    points, normals = surface_samples(8000)
    disturbed = points[:3000].copy()
    disturbed[:200] += 30 * normals[:200]
    found = icp(disturbed, point_tree(points), normals, Similarity.identity(), ICPSettings())
    assert np.abs(found(points) - points).max() < 1e-3


def test_icp_leaves_what_a_sphere_does_not_fix() -> None:
    sphere = ball(60.0, 5)
    tree, normals = point_tree(sphere.vertices), vertex_normals(sphere)
    shifted = Similarity(1.02, np.eye(3), np.array([1.0, -1, 2]))
    points = shifted(sphere.vertices[::3])
    found = icp(points, tree, normals, Similarity.identity(), ICPSettings())
    moved = (found @ shifted)(sphere.vertices)
    radius = np.linalg.norm(moved - sphere.vertices.mean(0), axis=1)
    np.testing.assert_allclose(radius, 60, atol=0.05)
    assert np.trace(found.rotation) > 3 - 1e-3


def test_icp_that_diverges_is_an_error() -> None:
    points, normals = surface_samples(3000)
    far = Similarity(1e-3, np.eye(3), np.array([0.0, 0, 5000]))
    with pytest.raises(InputError, match="diverges"):
        icp(points, point_tree(points), normals, far, ICPSettings())


def test_the_closer_start_is_taken() -> None:
    points, _ = surface_samples(2000)
    near = Similarity(1.0, np.eye(3), np.array([1.0, 0, 0]))
    wrong = Similarity(1.0, Rotation.from_euler("x", 90, degrees=True).as_matrix(), np.zeros(3))
    assert closest_start([wrong, near], points, point_tree(points), 0.8) is near
