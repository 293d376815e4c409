"""Pinhole cameras: rays, distances, axes."""

import numpy as np

from pmni.geometry.cameras import flip_yz, points_of_ray_distance, ray_distance_of_depth


def test_ray_distance_and_points_by_hand() -> None:
    K = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    distance = ray_distance_of_depth(np.array([[2.0, 2.0]]), K)
    np.testing.assert_allclose(distance, [[2.0, 2 * np.sqrt(2)]])
    np.testing.assert_allclose(points_of_ray_distance(distance, K), [[[0, 0, 2], [2, 0, 2]]])


def test_file_axes_are_y_up_and_z_towards_the_camera() -> None:
    normals = np.array([[1.0, 2.0, -3.0]])
    assert flip_yz(normals).tolist() == [[1.0, -2.0, 3.0]]
    assert np.array_equal(flip_yz(flip_yz(normals)), normals)
