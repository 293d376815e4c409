"""Random errors of camera poses, for studies."""

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation


def turn_about_object(
    c2w: Float[np.ndarray, "V 4 4"], rotations: Rotation
) -> Float[np.ndarray, "V 4 4"]:
    """Cameras rotated about the world's origin, which stays at the same pixel of each."""
    turned = c2w.copy()
    turned[:, :3] = rotations.as_matrix() @ c2w[:, :3]
    return turned


def add_noise(
    c2w: Float[np.ndarray, "V 4 4"],
    rotation_deg: float,
    translation: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "V 4 4"]:
    """Poses with Gaussian noise.

    `rotation_deg` is the standard deviation of the rotation about each axis, degrees; `translation`
    that of each coordinate of the camera centre, as a fraction of the mean camera distance.
    """
    vectors = np.deg2rad(rotation_deg) * rng.standard_normal((len(c2w), 3))
    noisy = turn_about_object(c2w, Rotation.from_rotvec(vectors))
    distance = np.linalg.norm(c2w[:, :3, 3], axis=1).mean()
    noisy[:, :3, 3] += translation * distance * rng.standard_normal((len(c2w), 3))
    return noisy


def add_view_errors(
    c2w: Float[np.ndarray, "V 4 4"],
    angle_deg: tuple[float, float],
    distance: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "V 4 4"]:
    """Poses with each view rotated about the object in tilt and azimuth, and moved along its ray.

    The angle is uniform in `angle_deg`, in a random direction between tilt (about the camera's
    horizontal axis) and azimuth (about the world's vertical); the distance is multiplied by
    1 + a Gaussian of the given std.
    """
    count = len(c2w)
    angle = np.deg2rad(rng.uniform(*angle_deg, size=count))
    mixture = rng.uniform(0, 2 * np.pi, size=count)
    right = np.cross(c2w[:, :3, 3], [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    tilt = Rotation.from_rotvec((angle * np.cos(mixture))[:, None] * right)
    azimuth = Rotation.from_rotvec((angle * np.sin(mixture))[:, None] * [0.0, 0.0, 1.0])
    wrong = turn_about_object(c2w, azimuth * tilt)
    wrong[:, :3, 3] *= 1 + distance * rng.standard_normal((count, 1))
    return wrong
