"""Rays o + t d with unit directions d."""

import numpy as np
from jaxtyping import Float


def nearest_point(
    origins: Float[np.ndarray, "V 3"], directions: Float[np.ndarray, "V 3"]
) -> Float[np.ndarray, "3"]:
    """The point with the least sum of squared distances from rays.

    The squared distance of c from a ray is |(I - d d^T)(c - o)|^2, so that
    sum (I - d d^T) c = sum (I - d d^T) o. Raises LinAlgError for parallel rays.
    """
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    return np.linalg.solve(across.sum(0), np.einsum("vij,vj->i", across, origins))
