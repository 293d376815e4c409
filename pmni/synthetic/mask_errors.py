"""Errors of segmentation: masks a little too large or too small, with jittered contours."""

import numpy as np
from jaxtyping import Bool

from pmni.geometry.silhouettes import nearest_across_contour, signed_distance
from pmni.synthetic.noise import random_fields

_CORRELATION_LENGTH = 4.0
"""Standard deviation of the smoothing of the contour's jitter, pixels."""


def perturb_mask(
    mask: Bool[np.ndarray, "H W"], offset: float, jitter: float, rng: np.random.Generator
) -> Bool[np.ndarray, "H W"]:
    """The mask with its contour moved outwards by d(s) pixels, inwards where d is negative.

    d(s) = one number for the whole mask, normal with standard deviation `offset`, plus a smooth
    Gaussian process along the contour with standard deviation `jitter`.
    """
    shared = offset * rng.standard_normal()
    field = jitter * random_fields(mask.shape, np.array([_CORRELATION_LENGTH]), 1, rng)[..., 0]
    if not mask.any():
        return mask
    return signed_distance(mask) < shared + field[nearest_across_contour(mask)]
