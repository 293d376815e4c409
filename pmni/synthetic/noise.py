"""Random errors of measured normals."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import fft

from pmni.errors import InputError

_CORRELATION_LENGTHS = (2.0, 8.0, 32.0, 120.0)
"""Standard deviations of the smoothing of the equally strong parts of the noise, in pixels of an
image `_REFERENCE_HEIGHT` pixels high: grain, texture, shading, drift across the image."""
_REFERENCE_HEIGHT = 512
"""Image height to which the correlation lengths refer, pixels."""
_FLATTENING = 0.6
"""Tilt towards the viewer of a normal at 90 degrees to the view, relative to the random part."""
_FACING_AMPLITUDE = 0.6
"""Relative amplitude of the random part where the surface faces the camera."""
_GRAZING_AMPLITUDE = 1.4
"""Relative amplitude of the random part at 90 degrees to the view."""
_MAX_ROTATION = np.deg2rad(80.0)
"""Largest rotation of a normal, radians."""
_MIN_FACING = 0.02
"""Smallest cosine between a noisy normal and the direction to the camera."""
_MAX_ITERATIONS = 200
"""Largest number of fixed-point iterations that fit the amplitude to the mean angle."""


def photometric_stereo(
    normals: Float[np.ndarray, "H W 3"],
    mask: Bool[np.ndarray, "H W"],
    towards_camera: Float[np.ndarray, "H W 3"],
    mean_angle: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "H W 3"]:
    """Normals as photometric stereo estimates them, wrong by `mean_angle` (radians) on average.

    Errors are correlated over several lengths, grow towards grazing angles, and flatten the
    surface: normals lean towards the viewer. Every normal still faces the camera.
    `normals` and `towards_camera` (unit vectors) share a frame whose z axis points from the
    object to the camera; outside the mask the result is zero.

    Each normal n is turned along a tangent vector. Tangent planes are joined to the image plane
    by the shortest rotation Q(n) that takes z to n, so a smooth 2D field a on the image makes
    smooth errors: n' = Q(n) (sin|a| a/|a|, cos|a|).
    """
    true, towards = normals[mask], towards_camera[mask]
    random = smooth_field(mask.shape, rng)[mask]
    slope = 1 - np.clip(true[:, 2:], 0, 1)
    amplitude = _FACING_AMPLITUDE + (_GRAZING_AMPLITUDE - _FACING_AMPLITUDE) * slope
    tangent = amplitude * random - _FLATTENING * true[:, :2]

    size = mean_angle / np.linalg.norm(tangent, axis=1).mean()
    for _ in range(_MAX_ITERATIONS):
        rotated = clamp_to_visible(rotate_normals(true, size * tangent), towards)
        reached = float(angle_between(rotated, true).mean())
        if abs(reached / mean_angle - 1) < 1e-6:
            noisy = np.zeros_like(normals)
            noisy[mask] = rotated
            return noisy
        size *= mean_angle / reached  # the mean grows almost in proportion to the size
    raise InputError(
        f"normals cannot be {np.rad2deg(mean_angle):.1f} degrees wrong on average and still face "
        f"the camera; {np.rad2deg(reached):.1f} is the most here"
    )


def smooth_field(shape: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, "H W 2"]:
    """Two Gaussian random fields of variance 1 with equal parts of all correlation lengths."""
    lengths = np.array(_CORRELATION_LENGTHS) * shape[0] / _REFERENCE_HEIGHT
    return random_fields(shape, lengths, 2, rng)


def random_fields(
    shape: tuple[int, ...], lengths: Float[np.ndarray, " L"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "H W N"]:
    """`count` periodic Gaussian random fields of variance 1, smooth over `lengths` (pixels).

    White noise times the root of the summed power spectra of Gaussian smoothings.
    """
    frequencies = [fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None, :]]
    power = np.zeros((shape[0], shape[1] // 2 + 1))
    for length in lengths:
        rows, columns = (np.exp(-((2 * np.pi * length * f) ** 2)) for f in frequencies)
        full = np.exp(-((2 * np.pi * length * fft.fftfreq(shape[1])) ** 2))
        power += rows * columns / (rows.mean() * full.mean()) / len(lengths)
    white = rng.standard_normal((count, *shape))
    return np.moveaxis(fft.irfft2(fft.rfft2(white) * np.sqrt(power), s=shape), 0, -1)


def angle_between(
    a: Float[np.ndarray, "*n 3"], b: Float[np.ndarray, "*n 3"]
) -> Float[np.ndarray, "*n"]:
    """Angles between vectors, radians; accurate at 0 and pi."""
    return np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(-1))


def rotate_normals(
    normals: Float[np.ndarray, "N 3"], tangent: Float[np.ndarray, "N 2"]
) -> Float[np.ndarray, "N 3"]:
    """Normals rotated by tangent vectors (radians): Q(n) exp(a)."""
    angle = np.linalg.norm(tangent, axis=1, keepdims=True)
    limited = np.minimum(angle, _MAX_ROTATION)
    flat = tangent * np.sin(limited) / np.maximum(angle, 1e-12)
    nx_ny, nz = normals[:, :2], normals[:, 2:]
    upright = np.cos(limited)
    # Q(n) = identity in the direction across n; z -> n in the plane of z and n
    along = (flat * nx_ny).sum(1, keepdims=True)
    xy = flat - nx_ny * along / (1 + nz) + nx_ny * upright
    return np.concatenate([xy, nz * upright - along], axis=1)


def clamp_to_visible(
    normals: Float[np.ndarray, "N 3"], towards: Float[np.ndarray, "N 3"]
) -> Float[np.ndarray, "N 3"]:
    """Normals that face away from the camera, tilted back until they are just visible."""
    missing = _MIN_FACING - (normals * towards).sum(1, keepdims=True)
    turned = normals + np.maximum(missing, 0) * towards
    return turned / np.linalg.norm(turned, axis=1, keepdims=True)
