"""Similarity alignment and the projection to rotations."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pmni.geometry.transforms import Similarity, project_to_rotation, umeyama


def test_the_projection_of_a_noisy_rotation_is_the_nearest_rotation() -> None:
    rng = np.random.default_rng(0)
    matrix = Rotation.random(rng=rng).as_matrix() + 0.1 * rng.standard_normal((3, 3))
    nearest = project_to_rotation(matrix)
    np.testing.assert_allclose(nearest @ nearest.T, np.eye(3), atol=1e-12)
    least = np.linalg.norm(nearest - matrix)
    for turn in Rotation.from_rotvec(0.05 * rng.standard_normal((50, 3))).as_matrix():
        assert np.linalg.norm(turn @ nearest - matrix) > least


def test_a_reflection_is_projected_to_a_rotation() -> None:
    np.testing.assert_allclose(project_to_rotation(np.diag([3.0, 2.0, -1.0])), np.eye(3))


@pytest.mark.parametrize("flat", [False, True])
def test_umeyama_finds_the_similarity(flat: bool) -> None:
    rng = np.random.default_rng(1)
    points = rng.standard_normal((20, 3)) * [1, 2, 0 if flat else 3]
    true = Similarity(1.7, Rotation.random(rng=rng).as_matrix(), np.array([1.0, -2, 3]))
    found = umeyama(points, true(points))
    assert found.scale == pytest.approx(1.7)
    np.testing.assert_allclose(found.rotation, true.rotation, atol=1e-10)
    np.testing.assert_allclose(found.shift, true.shift, atol=1e-10)


def test_umeyama_does_not_mirror() -> None:
    points = np.random.default_rng(2).standard_normal((20, 3))
    found = umeyama(points, points * [1, 1, -1])
    assert np.linalg.det(found.rotation) == pytest.approx(1)
    assert 0 < found.scale < 1
