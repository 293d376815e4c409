"""Alignment of a reconstruction with the ground truth: by its cameras, then by ICP."""

import numpy as np
from jaxtyping import Bool, Shaped

from pmni.config.evaluation import EvaluateSettings
from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.evaluation.alignment import align_cameras, align_rotations
from pmni.evaluation.comparison import GroundTruth
from pmni.evaluation.icp import closest_start, icp
from pmni.evaluation.pose_errors import common_poses
from pmni.geometry.mesh import Mesh
from pmni.geometry.poses import Poses
from pmni.geometry.ray_casting import RayCaster, Rays
from pmni.geometry.transforms import Similarity


def align_surface(
    capture: Capture,
    mesh: Mesh,
    poses: Poses | None,
    rays: Rays,
    ground_truth: GroundTruth,
    settings: EvaluateSettings,
) -> Similarity:
    """The similarity that moves the mesh onto the ground truth, by the method of the settings.

    Cameras alone are a poor frame for the surface: they are far from the object, so that a small
    error of their orientations shifts it much. ICP starts from them. Raises InputError when the
    method needs poses that are not given, no ray hits the mesh, or ICP diverges.
    """
    if settings.alignment == "none":
        return Similarity.identity()
    starts = _camera_alignments(capture, poses, settings)
    similarity = starts[0]
    if len(starts) > 1:
        vertices = mesh.vertices.astype(np.float64)
        points = sample(vertices, settings.icp.start_points, settings.seed)
        similarity = closest_start(starts, points, ground_truth.tree, settings.icp.start_inliers)
    if settings.alignment == "icp":
        similarity = _refine(mesh, similarity, rays, ground_truth, settings)
    return similarity


def align_by_cameras(capture: Capture, poses: Poses, collinearity: float) -> Similarity:
    """The similarity that moves the estimated cameras onto the reference ones."""
    return align_cameras(*common_poses(capture, poses), collinearity)[0]


def transform(mesh: Mesh, similarity: Similarity) -> Mesh:
    """The mesh, moved, in double precision."""
    return Mesh(similarity(mesh.vertices.astype(np.float64)), mesh.faces)


def sample(points: Shaped[np.ndarray, " N *each"], most: int, seed: int) -> np.ndarray:
    """At most `most` of the points, drawn at random without repetition."""
    if len(points) <= most:
        return points
    return points[np.random.default_rng(seed).choice(len(points), most, replace=False)]


def require_hits(mask: Bool[np.ndarray, " P"], target: str) -> None:
    """Raise InputError, which names the target, if no ray hits it."""
    if not mask.any():
        raise InputError(
            f"no ray through the masks hits {target}: wrong frame or units? "
            "meshes are in dataset units"
        )


def _camera_alignments(
    capture: Capture, poses: Poses | None, settings: EvaluateSettings
) -> list[Similarity]:
    """The alignment of the cameras, and for ICP also the one of their rotations."""
    if poses is None:
        if settings.alignment == "cameras":
            raise InputError("alignment 'cameras' needs the estimated poses: give --poses")
        return [Similarity.identity()]
    by_cameras = align_by_cameras(capture, poses, settings.collinearity)
    if settings.alignment == "cameras":
        return [by_cameras]
    return [by_cameras, align_rotations(*common_poses(capture, poses))]


def _refine(
    mesh: Mesh,
    start: Similarity,
    rays: Rays,
    ground_truth: GroundTruth,
    settings: EvaluateSettings,
) -> Similarity:
    """ICP of the points of the mesh that rays hit first, once it has been moved by `start`."""
    caster = RayCaster(transform(mesh, start))
    origins = rays.centres[rays.view]
    triangles = caster.first_triangles(origins, rays.directions)
    require_hits(triangles >= 0, "the mesh, aligned by its cameras,")
    chosen = sample(np.flatnonzero(triangles >= 0), settings.icp.points, settings.seed)
    points, _, _ = caster.intersect(origins[chosen], rays.directions[chosen], triangles[chosen])
    local = start.inverse()(points)
    return icp(local, ground_truth.tree, ground_truth.hits.normals, start, settings.icp)
