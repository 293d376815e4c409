"""What measurement does to normals. One function for each kind of error, all of the same form:
true normals, mask, directions towards the camera, size and random numbers in, wrong normals out.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import fft

from pmni.errors import InputError

# Correlation lengths (standard deviation of the smoothing, pixels of an image 512 pixels high) of
# equally strong parts: grain, texture-sized errors, shading-sized errors, and a drift across the
# whole image.
_LENGTHS = (2.0, 8.0, 32.0, 120.0)
_REFERENCE_HEIGHT = 512
_FLATTENING = 0.6  # of a normal at right angles to the view, relative to the random part
_AT_CENTRE, _AT_RIM = 0.6, 1.4  # the random part's size where the surface faces us, and at 90 deg
_LARGEST = np.deg2rad(80.0)  # no normal turns farther
_LEAST_FACING = 0.02  # cosine of the most grazing noisy normal with the direction to the camera


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
    tangent = (_AT_CENTRE + (_AT_RIM - _AT_CENTRE) * slope) * random - _FLATTENING * true[:, :2]

    size = mean_angle / np.linalg.norm(tangent, axis=1).mean()
    for _ in range(200):
        turned = facing(turn(true, size * tangent), towards)
        reached = float(angle_between(turned, true).mean())
        if abs(reached / mean_angle - 1) < 1e-6:
            noisy = np.zeros_like(normals)
            noisy[mask] = turned
            return noisy
        size *= mean_angle / reached  # the mean grows almost in proportion to the size
    raise InputError(
        f"normals cannot be {np.rad2deg(mean_angle):.1f} degrees wrong on average and still face "
        f"the camera; {np.rad2deg(reached):.1f} is the most here"
    )


def smooth_field(shape: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, "H W 2"]:
    """Two Gaussian random fields of variance 1 with equal parts of all correlation lengths."""
    return random_fields(shape, np.array(_LENGTHS) * shape[0] / _REFERENCE_HEIGHT, 2, rng)


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


def turn(
    normals: Float[np.ndarray, "N 3"], tangent: Float[np.ndarray, "N 2"]
) -> Float[np.ndarray, "N 3"]:
    """Normals turned by tangent vectors (radians): Q(n) exp(a)."""
    angle = np.linalg.norm(tangent, axis=1, keepdims=True)
    limited = np.minimum(angle, _LARGEST)
    flat = tangent * np.sin(limited) / np.maximum(angle, 1e-12)
    nx_ny, nz = normals[:, :2], normals[:, 2:]
    upright = np.cos(limited)
    # Q(n) = identity in the direction across n; z -> n in the plane of z and n
    along = (flat * nx_ny).sum(1, keepdims=True)
    xy = flat - nx_ny * along / (1 + nz) + nx_ny * upright
    return np.concatenate([xy, nz * upright - along], axis=1)


def facing(
    normals: Float[np.ndarray, "N 3"], towards: Float[np.ndarray, "N 3"]
) -> Float[np.ndarray, "N 3"]:
    """Normals that face away, or almost, turned back until they are just seen."""
    missing = _LEAST_FACING - (normals * towards).sum(1, keepdims=True)
    turned = normals + np.maximum(missing, 0) * towards
    return turned / np.linalg.norm(turned, axis=1, keepdims=True)
