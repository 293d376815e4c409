"""Alignment of points with a surface by scaled, trimmed, point-to-plane ICP.

Own code: the ICP of open3d, trimesh and scikit-image estimates no scale in its point-to-plane form
or trims no outliers, and a pose-free reconstruction is known up to a similarity only.
"""

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from pmni.config.evaluation import ICPSettings
from pmni.errors import InputError
from pmni.geometry.transforms import Similarity


def closest_start(
    starts: list[Similarity],
    points: Float[np.ndarray, "N 3"],
    ground_truth: KDTree,
    inliers: float,
) -> Similarity:
    """The similarity that brings the points nearest to the ground truth: the smallest mean
    distance of the fraction `inliers` of them that come nearest."""
    count = max(1, int(inliers * len(points)))
    distances = [
        np.sort(ground_truth.query(start(points), workers=-1)[0])[:count].mean() for start in starts
    ]
    return starts[int(np.argmin(distances))]


def icp(
    points: Float[np.ndarray, "N 3"],
    ground_truth: KDTree,
    normals: Float[np.ndarray, "M 3"],
    start: Similarity,
    settings: ICPSettings,
) -> Similarity:
    """The similarity that moves points onto a surface: point-to-plane ICP (Chen and Medioni, 1992).

    ground_truth, normals: points of the surface and its unit normals there. Each iteration solves
    n . (s R p + t - q) = 0, linearised in rotation, translation and log scale, in least squares
    over the nearest `inliers` of the pairs; directions that the surface leaves free (a sphere's
    rotations) stay as they are. Raises InputError when the iteration diverges.
    """
    centre = ground_truth.data.mean(0)
    radius = np.linalg.norm(ground_truth.data - centre, axis=1).max()
    normalise = Similarity(1 / radius, np.eye(3), -centre / radius)
    total = start
    for _ in range(settings.iterations):
        moved = total(points)
        distance, index = ground_truth.query(moved, workers=-1)
        inlier = distance <= np.quantile(distance, settings.inliers)
        p, n = normalise(moved[inlier]), normals[index[inlier]]
        q = normalise(ground_truth.data[index[inlier]])
        jacobian = np.column_stack([np.cross(p, n), n, np.einsum("ij,ij->i", p, n)])
        residual = np.einsum("ij,ij->i", q - p, n)
        step = np.linalg.lstsq(jacobian, residual, rcond=1e-6)[0]
        if not np.abs(step).max() < settings.max_step:
            raise InputError(
                "alignment by ICP diverges: the mesh is too far from the ground-truth surface; "
                "evaluate with `alignment: cameras`"
            )
        move = Similarity(
            float(np.exp(step[6])), Rotation.from_rotvec(step[:3]).as_matrix(), step[3:6]
        )
        total = normalise.inverse() @ move @ normalise @ total
        if np.abs(step).max() < settings.tolerance:
            break
    return total
