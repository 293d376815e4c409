"""Camera rigs of synthetic captures: a turntable, a hand-held camera, or random poses."""

import numpy as np
from jaxtyping import Float

from pmni.errors import InputError
from pmni.geometry.cameras import look_at, project

_FOCAL_PER_HEIGHT = 3760 / 512
"""Focal length per image height of DiLiGenT-MV's camera."""

_SHARED_ELEVATION_STD = np.deg2rad(1.5)
"""Standard deviation at jitter 1 of the elevation that all views share, radians."""
_AXIS_STD = 2.0
"""Standard deviation at jitter 1 of the turntable's axis about the object's centre, mm."""
_AZIMUTH_STD = np.deg2rad(1.0)
"""Standard deviation at jitter 1 of each view's azimuth, radians."""
_ELEVATION_STD = np.deg2rad(0.5)
"""Standard deviation at jitter 1 of each view's elevation, radians."""
_ROLL_STD = np.deg2rad(0.3)
"""Standard deviation at jitter 1 of each view's roll, radians."""
_DISTANCE_STD = 0.01
"""Standard deviation at jitter 1 of each view's distance, relative."""
_TARGET_STD = 1.0
"""Standard deviation at jitter 1 of the point that each camera looks at, mm."""

_HANDHELD_ELEVATION = np.deg2rad(5.0), np.deg2rad(50.0)
"""Range of the elevation of a hand-held camera, radians; uniform."""
_HANDHELD_ROLL = np.deg2rad(20.0)
"""Largest roll of a hand-held camera, radians; uniform."""
_HANDHELD_DISTANCE = 0.05
"""Largest relative deviation of the distance of a hand-held camera; uniform."""
_HANDHELD_STEP = 0.35
"""Largest deviation of the azimuth of a hand-held camera, in mean steps between views; uniform."""
_RANDOM_SINE = np.sin(np.deg2rad(-10.0)), np.sin(np.deg2rad(60.0))
"""Range of the sine of the elevation (-10 to 60 degrees) of random poses; uniform."""


def intrinsics(height: int, width: int) -> Float[np.ndarray, "3 3"]:
    """K of a DiLiGenT-like lens; the field of view depends on neither."""
    focal = _FOCAL_PER_HEIGHT * height
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])


def turntable_poses(
    views: int, elevation: float, distance: float, jitter: float, rng: np.random.Generator
) -> Float[np.ndarray, "V 4 4"]:
    """c2w of cameras in equal steps counterclockwise about the z axis (radians, mm).

    With `jitter` the circle is tilted and off the object, and each camera is a little off it.
    """
    shared = elevation + _SHARED_ELEVATION_STD * jitter * rng.standard_normal()
    axis = _AXIS_STD * jitter * rng.standard_normal(3)
    azimuths = 2 * np.pi * np.arange(views) / views
    azimuths += _AZIMUTH_STD * jitter * rng.standard_normal(views)
    elevations = shared + _ELEVATION_STD * jitter * rng.standard_normal(views)
    rolls = _ROLL_STD * jitter * rng.standard_normal(views)
    return _around(axis, azimuths, elevations, rolls, distance, jitter, rng)


def handheld_poses(
    views: int, distance: float, jitter: float, rng: np.random.Generator
) -> Float[np.ndarray, "V 4 4"]:
    """c2w of a camera carried once round the object: steps of azimuth that differ by up to a
    factor of 6, elevations from 5 to 50 degrees, roll up to 20 degrees, distance 5 % more or less.

    `jitter` varies distance and aim as on the turntable, on top.
    """
    steps = np.arange(views) + _HANDHELD_STEP * rng.uniform(-1, 1, views)
    elevations = rng.uniform(*_HANDHELD_ELEVATION, views)
    rolls = _HANDHELD_ROLL * rng.uniform(-1, 1, views)
    distances = distance * (1 + _HANDHELD_DISTANCE * rng.uniform(-1, 1, views))
    azimuths = 2 * np.pi * steps / views
    return _around(np.zeros(3), azimuths, elevations, rolls, distances, jitter, rng)


def random_poses(
    views: int, distance: float, jitter: float, rng: np.random.Generator
) -> Float[np.ndarray, "V 4 4"]:
    """c2w of cameras spread about the object: any azimuth, elevations from -10 to 60 degrees
    (evenly over that part of the sphere), any roll, in no order.

    Each has its own sector of azimuths, so that all sides are observed. `jitter` varies distance
    and aim as on the turntable.
    """
    azimuths = 2 * np.pi * (rng.permutation(views) + rng.random(views)) / views
    elevations = np.arcsin(rng.uniform(*_RANDOM_SINE, views))
    rolls = rng.uniform(0, 2 * np.pi, views)
    return _around(np.zeros(3), azimuths, elevations, rolls, distance, jitter, rng)


def _around(
    axis: np.ndarray,
    azimuths: np.ndarray,
    elevations: np.ndarray,
    rolls: np.ndarray,
    distance: float | np.ndarray,
    jitter: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "V 4 4"]:
    views = len(azimuths)
    distances = distance * (1 + _DISTANCE_STD * jitter * rng.standard_normal(views))
    targets = axis + _TARGET_STD * jitter * rng.standard_normal((views, 3))
    flat = np.cos(elevations)
    directions = np.stack([flat * np.cos(azimuths), flat * np.sin(azimuths), np.sin(elevations)], 1)
    positions = axis + distances[:, None] * directions
    return np.stack(
        [
            look_at(position, target, roll=float(roll))
            for position, target, roll in zip(positions, targets, rolls, strict=True)
        ]
    )


def check_in_view(
    vertices: Float[np.ndarray, "N 3"],
    K: Float[np.ndarray, "3 3"],
    w2c: Float[np.ndarray, "V 4 4"],
    height: int,
    width: int,
) -> None:
    """Raise InputError naming the first view whose image border the vertices touch."""
    for view, transform in enumerate(w2c):
        points = vertices @ transform[:3, :3].T + transform[:3, 3]
        if points[:, 2].min() <= 0:
            raise InputError(f"view {view}: the camera is inside the object; raise `distance`")
        pixels, _ = project(points, K)
        low, high = pixels.min(0), pixels.max(0)
        if low.min() < 1 or high[0] > width - 2 or high[1] > height - 2:
            raise InputError(
                f"view {view}: the object reaches the image border (columns {low[0]:.0f} to "
                f"{high[0]:.0f} of {width}, rows {low[1]:.0f} to {high[1]:.0f} of {height}); "
                "lower `radius` or `pose_jitter`, or raise `distance` or `width`"
            )
