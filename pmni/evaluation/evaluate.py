"""Comparison of a mesh and poses with the ground truth, by SuperNormal's protocol.

(Cao and Taketomi, CVPR 2024.) Points are the first hits of the rays through every pixel inside the
masks, cast from the reference cameras, on the ground-truth mesh and on the reconstructed one. A
pose-free reconstruction lives in a similarity frame of its own and is moved onto the ground truth
first. `docs/evaluation.md` describes all of it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float16

from pmni.config.evaluation import EvaluateSettings
from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.evaluation.alignment import align_cameras
from pmni.evaluation.comparison import Comparison, GroundTruth
from pmni.evaluation.distances import (
    diameter,
    distance_to_surface,
    nearest_distance,
    point_tree,
    surface_errors,
)
from pmni.evaluation.metrics import metrics_of
from pmni.evaluation.normal_errors import (
    error_map,
    ground_truth_normals_of,
    nan_if_unknown,
    normal_angles,
)
from pmni.evaluation.pose_errors import (
    PoseErrors,
    common_poses,
    in_dataset_units,
    pose_errors,
    reference_poses,
)
from pmni.evaluation.surface_alignment import (
    align_by_cameras,
    align_surface,
    require_hits,
    sample,
    transform,
)
from pmni.geometry.mesh import Mesh
from pmni.geometry.poses import Poses
from pmni.geometry.ray_casting import Rays, cast_rays, mask_rays
from pmni.geometry.transforms import Similarity

NO_GROUND_TRUTH = (
    "no ground-truth mesh with reference poses: the surface is not measured; normals are compared "
    "as the estimated cameras see the mesh"
)
"""The note beside the metrics of a capture without ground truth."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics, and maps of where the errors are."""

    metrics: dict[str, Any]
    """Values by column, None for what cannot be measured; and how they were measured (`alignment`,
    `camera_alignment`, `normals_compared_with`, `similarity`, `note`)."""
    normal_error_deg: Float16[np.ndarray, "V H W"]
    """Angle between the normals; NaN outside the masks and where no surface is hit."""
    surface_distance_mm: Float[np.ndarray, " N"]
    """Distance of each vertex of the aligned mesh from the observed ground-truth surface; empty
    without a ground-truth mesh."""
    observed: Bool[np.ndarray, " N"]
    """Whether each vertex is near a first hit of the rays; empty without a ground-truth mesh."""


def evaluate(
    capture: Capture,
    mesh: Mesh,
    poses: Poses | None,
    initial: Poses | None,
    settings: EvaluateSettings,
) -> Evaluation:
    """Compare a mesh (dataset units) and poses (normalised world) with the capture's ground truth.

    Without a ground-truth mesh and reference poses only the mesh's normals, seen by the estimated
    cameras, are compared, with the capture's normals. Raises InputError when the alignment needs
    poses that are not given, or no ray hits the mesh.
    """
    unknown = [view for view in settings.exclude_views if view not in capture.views]
    if unknown:
        raise InputError(f"exclude_views: unknown view '{unknown[0]}'; known: {capture.views}")
    if len(mesh.faces) == 0 or not np.isfinite(mesh.vertices).all():
        raise InputError("the mesh has no faces, or vertices that are not finite")
    if capture.ground_truth_vertices is None or capture.reference_c2w is None:
        return _without_ground_truth(capture, mesh, poses, initial, settings)
    return _with_ground_truth(capture, mesh, poses, initial, settings)


def _with_ground_truth(
    capture: Capture,
    mesh: Mesh,
    poses: Poses | None,
    initial: Poses | None,
    settings: EvaluateSettings,
) -> Evaluation:
    reference = reference_poses(capture, capture.views)
    rays = mask_rays(capture.masks, capture.intrinsics, reference)
    ground_truth = _ground_truth(capture, rays)
    similarity = align_surface(capture, mesh, poses, rays, ground_truth, settings)
    moved = transform(mesh, similarity)
    hits = cast_rays(moved, rays)
    require_hits(hits.mask, "the mesh")
    tree = point_tree(hits.points)
    normals, source = ground_truth_normals_of(capture, rays, ground_truth.hits, reference)
    comparison = Comparison(
        mesh=moved,
        rays=rays,
        hits=hits,
        ground_truth=ground_truth,
        surface_errors=surface_errors(tree, ground_truth.tree),
        diameter=diameter(ground_truth.mesh.vertices),
        normal_error_deg=normal_angles(hits, normals),
        held_out=np.isin(capture.views, settings.exclude_views)[rays.view],
        **_pose_errors(capture, poses, initial, settings.alignment, similarity, settings),
    )
    triangles = ground_truth.mesh.vertices[ground_truth.mesh.faces]
    distance = distance_to_surface(
        moved.vertices, ground_truth.tree, ground_truth.hits.triangles, triangles
    )
    metrics = {
        "alignment": settings.alignment,
        **_measure(comparison, settings),
        "camera_alignment": _camera_method(capture, poses, settings),
        "normals_compared_with": source,
        "similarity": _as_dict(similarity),
        "note": None,
    }
    reach = settings.observed_spacings * _point_spacing(ground_truth, settings)
    observed = nearest_distance(tree, moved.vertices, reach) < reach
    errors = error_map(comparison.normal_error_deg, capture.masks)
    return Evaluation(metrics, errors, distance.astype(np.float32), observed)


def _without_ground_truth(
    capture: Capture,
    mesh: Mesh,
    poses: Poses | None,
    initial: Poses | None,
    settings: EvaluateSettings,
) -> Evaluation:
    if poses is None:
        raise InputError(
            f"{capture.name}: has no ground-truth mesh with reference poses, so the mesh can only "
            "be compared with the normals as the estimated cameras see them: give --poses"
        )
    posed = np.isin(capture.views, poses.views)
    c2w = np.full((len(capture.views), 4, 4), np.nan)
    views = tuple(view for view in capture.views if view in poses.views)
    c2w[posed] = in_dataset_units(poses.select(views), capture)
    masks = capture.masks & posed[:, None, None]
    rays = mask_rays(masks, capture.intrinsics, c2w)
    hits = cast_rays(mesh, rays)
    require_hits(hits.mask, "the mesh")
    maps, source = capture.ground_truth_normals, "ground_truth_normals"
    if maps is None:
        maps, source = capture.normals, "input"
    normals = np.einsum("pij,pj->pi", c2w[rays.view, :3, :3], maps[masks].astype(float))
    alignment = "none" if settings.alignment == "none" else "cameras"
    similarity = Similarity.identity()
    if capture.reference_c2w is not None and alignment == "cameras":
        similarity = align_by_cameras(capture, poses, settings.collinearity)
    comparison = Comparison(
        mesh=mesh,
        rays=rays,
        hits=hits,
        ground_truth=None,
        surface_errors=None,
        diameter=None,
        normal_error_deg=normal_angles(hits, nan_if_unknown(normals)),
        held_out=np.isin(capture.views, settings.exclude_views)[rays.view],
        **_pose_errors(capture, poses, initial, alignment, similarity, settings),
    )
    metrics = {
        "alignment": alignment if capture.reference_c2w is not None else "none",
        **_measure(comparison, settings),
        "camera_alignment": _camera_method(capture, poses, settings),
        "normals_compared_with": source,
        "similarity": _as_dict(Similarity.identity()),
        "note": NO_GROUND_TRUTH,
    }
    errors = error_map(comparison.normal_error_deg, masks)
    return Evaluation(metrics, errors, np.zeros(0, np.float32), np.zeros(0, bool))


def _measure(comparison: Comparison, settings: EvaluateSettings) -> dict[str, Any]:
    """The values of all registered metrics, by column."""
    return {metric.key: metric.compute(comparison) for metric in metrics_of(settings)}


def _ground_truth(capture: Capture, rays: Rays) -> GroundTruth:
    """The capture's ground-truth surface, as the rays hit it. Raises InputError if none does."""
    assert capture.ground_truth_vertices is not None
    assert capture.ground_truth_faces is not None
    mesh = Mesh(capture.ground_truth_vertices.astype(np.float64), capture.ground_truth_faces)
    hits = cast_rays(mesh, rays)
    require_hits(hits.mask, "the ground-truth mesh")
    return GroundTruth(mesh, hits, point_tree(hits.points))


def _point_spacing(ground_truth: GroundTruth, settings: EvaluateSettings) -> float:
    """Median distance between neighbouring ground-truth points, mm."""
    points = sample(ground_truth.hits.points, settings.spacing_points, settings.seed)
    return float(np.median(ground_truth.tree.query(points, k=2)[0][:, 1]))


def _pose_errors(
    capture: Capture,
    poses: Poses | None,
    initial: Poses | None,
    alignment: str,
    similarity: Similarity,
    settings: EvaluateSettings,
) -> dict[str, PoseErrors | None]:
    """Errors in the frame of the mesh, in the cameras' own, and of the initial poses in theirs."""
    errors: dict[str, PoseErrors | None] = dict.fromkeys(
        ("pose_errors", "pose_errors_cameras", "pose_errors_initial")
    )
    if capture.reference_c2w is None:
        return errors
    if poses is not None:
        pair = common_poses(capture, poses)
        own = align_cameras(*pair, settings.collinearity)[0]
        errors["pose_errors"] = pose_errors(*pair, similarity, capture.offset)
        errors["pose_errors_cameras"] = pose_errors(*pair, own, capture.offset)
    if initial is not None:
        pair = common_poses(capture, initial)
        own = Similarity.identity()
        if alignment != "none":
            own = align_cameras(*pair, settings.collinearity)[0]
        errors["pose_errors_initial"] = pose_errors(*pair, own, capture.offset)
    return errors


def _camera_method(capture: Capture, poses: Poses | None, settings: EvaluateSettings) -> str | None:
    """Whether the cameras are aligned by their centres or rotations; None if they cannot be."""
    if capture.reference_c2w is None or poses is None:
        return None
    return align_cameras(*common_poses(capture, poses), settings.collinearity)[1]


def _as_dict(similarity: Similarity) -> dict[str, Any]:
    """The similarity as JSON holds it."""
    return {
        "scale": similarity.scale,
        "rotation": similarity.rotation.tolist(),
        "shift": similarity.shift.tolist(),
    }
