"""Alignment of two sets of cameras by a similarity: by their centres, or by their rotations."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from pmni.geometry.transforms import Similarity, project_to_rotation, umeyama


def align_cameras(
    estimated: Float[np.ndarray, "V 4 4"],
    reference: Float[np.ndarray, "V 4 4"],
    collinearity: float,
) -> tuple[Similarity, Literal["centres", "rotations"]]:
    """The similarity that moves the estimated cameras onto the reference ones, and its method.

    Their centres alone determine it, unless these are nearly on a line (the ratio of their second
    to their first singular value is below `collinearity`) or fewer than three: then the rotation
    comes from the cameras' orientations.
    """
    if min(_second_extent(estimated), _second_extent(reference)) < collinearity:
        return align_rotations(estimated, reference), "rotations"
    return umeyama(estimated[:, :3, 3], reference[:, :3, 3]), "centres"


def align_rotations(
    estimated: Float[np.ndarray, "V 4 4"], reference: Float[np.ndarray, "V 4 4"]
) -> Similarity:
    """The similarity whose rotation minimises sum |R R_est - R_ref|^2; the rest fits the centres.

    With one camera, or if all centres coincide, the scale is 1.
    """
    products = np.einsum("vij,vkj->ik", reference[:, :3, :3], estimated[:, :3, :3])
    rotation = project_to_rotation(products)
    source = estimated[:, :3, 3] @ rotation.T
    target = reference[:, :3, 3]
    spread = source - source.mean(0)
    extent = (spread**2).sum()
    scale = float((spread * target).sum() / extent) if extent > 0 else 1.0
    scale = scale if scale > 0 else 1.0
    return Similarity(scale, rotation, target.mean(0) - scale * source.mean(0))


def _second_extent(c2w: np.ndarray) -> float:
    """The second singular value of the centres about their mean, relative to the first."""
    centres = c2w[:, :3, 3]
    extent = np.linalg.svd(centres - centres.mean(0), compute_uv=False)
    return float(extent[1] / extent[0]) if len(extent) > 1 and extent[0] > 0 else 0.0
