"""Similarities between the reconstruction's world and the true one, and what poses are off by."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from pmni.errors import InputError
from pmni.geometry.transforms import Similarity, rotation_angle_deg, umeyama

COLLINEAR = 0.05
"""Centres whose second extent is below this part of the first do not fix a rotation."""


def align_cameras(
    estimated: Float[np.ndarray, "V 4 4"], reference: Float[np.ndarray, "V 4 4"]
) -> tuple[Similarity, Literal["centres", "rotations"]]:
    """The similarity that moves the estimated cameras onto the reference ones, and its method.

    By their centres alone; where these are nearly on a line, or fewer than three, they do not fix
    a rotation, and it is taken from the cameras' rotations.
    """
    if min(_second_extent(estimated), _second_extent(reference)) < COLLINEAR:
        return align_rotations(estimated, reference), "rotations"
    return umeyama(estimated[:, :3, 3], reference[:, :3, 3]), "centres"


def align_rotations(
    estimated: Float[np.ndarray, "V 4 4"], reference: Float[np.ndarray, "V 4 4"]
) -> Similarity:
    """The similarity whose rotation minimises sum |R R_est - R_ref|^2; the rest fits the centres.

    With one camera, or all in one place, the scale is 1.
    """
    u, _, vt = np.linalg.svd(np.einsum("vij,vkj->ik", reference[:, :3, :3], estimated[:, :3, :3]))
    rotation = (u * [1, 1, np.linalg.det(u @ vt)]) @ vt
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


@dataclass(frozen=True)
class PoseErrors:
    """What each camera is off by."""

    rotation_deg: Float[np.ndarray, "V"]
    translation_percent: Float[np.ndarray, "V"]
    """Distance of the centres in percent of the cameras' mean distance from the object."""


def pose_errors(
    estimated: Float[np.ndarray, "V 4 4"],
    reference: Float[np.ndarray, "V 4 4"],
    similarity: Similarity,
    object_centre: Float[np.ndarray, "3"],
) -> PoseErrors:
    """Errors of the estimated poses, moved by `similarity`."""
    moved = similarity.move_cameras(estimated)
    off = np.linalg.norm(moved[:, :3, 3] - reference[:, :3, 3], axis=1)
    reach = np.linalg.norm(reference[:, :3, 3] - object_centre, axis=1).mean()
    return PoseErrors(rotation_angle_deg(moved[:, :3, :3], reference[:, :3, :3]), 100 * off / reach)


def closest(
    starts: list[Similarity], points: Float[np.ndarray, "N 3"], truth: KDTree, keep: float = 0.8
) -> Similarity:
    """The start that brings most points (the nearest `keep` of them) closest to the truth."""
    residuals = [
        np.sort(truth.query(start(points), workers=-1)[0])[: max(1, int(keep * len(points)))].mean()
        for start in starts
    ]
    return starts[int(np.argmin(residuals))]


def icp(
    points: Float[np.ndarray, "N 3"],
    truth: KDTree,
    normals: Float[np.ndarray, "M 3"],
    start: Similarity,
    iterations: int = 100,
    keep: float = 0.9,
) -> Similarity:
    """The similarity that moves points onto a surface: point-to-plane ICP (Chen and Medioni, 1992).

    truth, normals: points of the surface and its unit normals there. Each step solves
    n . (s R p + t - q) = 0, linearised in rotation, translation and log scale, in least squares
    over the nearest `keep` of the pairs; directions that the surface leaves free (a sphere's
    rotations) stay as they are. Raises InputError when the surface runs away.
    """
    centre = truth.data.mean(0)
    radius = np.linalg.norm(truth.data - centre, axis=1).max()
    normalise = Similarity(1 / radius, np.eye(3), -centre / radius)
    total = start
    for _ in range(iterations):
        moved = total(points)
        distance, index = truth.query(moved, workers=-1)
        used = distance <= np.quantile(distance, keep)
        p, n = normalise(moved[used]), normals[index[used]]
        q = normalise(truth.data[index[used]])
        jacobian = np.column_stack([np.cross(p, n), n, np.einsum("ij,ij->i", p, n)])
        residual = np.einsum("ij,ij->i", q - p, n)
        step = np.linalg.lstsq(jacobian, residual, rcond=1e-6)[0]
        if not np.abs(step).max() < 1:
            raise InputError(
                "alignment by ICP runs away: the mesh is too far from the true surface; "
                "evaluate with `alignment: cameras`"
            )
        move = Similarity(
            float(np.exp(step[6])), Rotation.from_rotvec(step[:3]).as_matrix(), step[3:6]
        )
        total = normalise.inverse() @ move @ normalise @ total
        if np.abs(step).max() < 1e-7:
            break
    return total
