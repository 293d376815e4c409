"""Errors of poses with known faults."""

import numpy as np
from scipy.spatial.transform import Rotation

from pmni.evaluation.pose_errors import pose_errors
from pmni.geometry.cameras import turntable
from pmni.geometry.transforms import Similarity


def six_cameras() -> np.ndarray:
    """c2w of cameras 15 units from the origin."""
    return turntable(np.arange(6) * 2 * np.pi / 6, 0.4, 15.0)


def test_pose_errors_of_known_faults() -> None:
    reference = six_cameras()
    estimated = reference.copy()
    angles = np.array([1.0, 2, 3, 0, 0, 0])
    turn = Rotation.from_rotvec(np.deg2rad(angles)[:, None] * [0, 0.6, 0.8]).as_matrix()
    estimated[:, :3, :3] = estimated[:, :3, :3] @ turn
    estimated[1, :3, 3] += [0.09, 0.12, 0]  # 0.15 of 15: 1 percent
    found = pose_errors(estimated, reference, Similarity.identity(), np.zeros(3))
    np.testing.assert_allclose(found.rotation_deg, angles, atol=1e-9)
    np.testing.assert_allclose(found.translation_percent, [0, 1, 0, 0, 0, 0], atol=1e-9)


def test_pose_errors_are_relative_to_the_distance_from_the_object() -> None:
    reference, shift = six_cameras(), np.array([100.0, 0, 0])
    away = Similarity(1.0, np.eye(3), shift).move_cameras(reference)
    off = away.copy()
    off[:, 2, 3] += 0.3
    found = pose_errors(off, away, Similarity.identity(), shift)
    np.testing.assert_allclose(found.translation_percent, 2.0)
