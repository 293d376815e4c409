"""Comparison of a mesh and poses with the ground truth, by SuperNormal's protocol.

(Cao and Taketomi, CVPR 2024.) Points are the first hits of the rays through every pixel inside the
masks, cast from the reference cameras, on the ground-truth mesh and on the reconstructed one. A
pose-free reconstruction lives in a similarity frame of its own and is moved onto the ground truth
first. `docs/evaluation.md` describes all of it.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float16

from pmni.config.evaluation import EvaluateSettings
from pmni.data.capture import Capture
from pmni.errors import InputError
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
    capture_normals_of,
    error_map,
    ground_truth_normals_of,
    normal_angles,
)
from pmni.evaluation.pose_errors import compare_poses, in_dataset_units, reference_poses
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
    poses: Poses | None = None,
    initial: Poses | None = None,
    settings: EvaluateSettings | None = None,
) -> Evaluation:
    """Compare a mesh (dataset units) and poses (normalised world) with the capture's ground truth.

    Without a ground-truth mesh and reference poses only the mesh's normals, seen by the estimated
    cameras, are compared, with the capture's normals. Raises InputError when the alignment needs
    poses that are not given, or no ray hits the mesh.
    """
    settings = settings or EvaluateSettings()
    unknown = [view for view in settings.exclude_views if view not in capture.views]
    if unknown:
        raise InputError(f"exclude_views: unknown view '{unknown[0]}'; known: {capture.views}")
    if len(mesh.faces) == 0 or not np.isfinite(mesh.vertices).all():
        raise InputError("the mesh has no faces, or vertices that are not finite")
    if capture.ground_truth_mesh is None or capture.reference_c2w is None:
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
        poses=compare_poses(capture, poses, initial, similarity, settings),
    )
    reach = settings.observed_spacings * _point_spacing(ground_truth, settings)
    return Evaluation(
        _metrics(comparison, settings, settings.alignment, similarity, source, None),
        error_map(comparison.normal_error_deg, capture.masks),
        _surface_distance(moved, ground_truth).astype(np.float32),
        nearest_distance(tree, moved.vertices, reach) < reach,
    )


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
    c2w = np.full((len(capture.views), 4, 4), np.nan)
    views = tuple(view for view in capture.views if view in poses.views)
    posed = np.isin(capture.views, views)
    c2w[posed] = in_dataset_units(poses.select(views), capture)
    masks = capture.masks & posed[:, None, None]
    rays = mask_rays(masks, capture.intrinsics, c2w)
    hits = cast_rays(mesh, rays)
    require_hits(hits.mask, "the mesh")
    normals, source = capture_normals_of(capture, rays, masks, c2w)
    alignment, similarity = "none", Similarity.identity()
    if capture.reference_c2w is not None and settings.alignment != "none":
        alignment = "cameras"
        similarity = align_by_cameras(capture, poses, settings.collinearity)
    comparison = Comparison(
        mesh=mesh,
        rays=rays,
        hits=hits,
        ground_truth=None,
        surface_errors=None,
        diameter=None,
        normal_error_deg=normal_angles(hits, normals),
        held_out=np.isin(capture.views, settings.exclude_views)[rays.view],
        poses=compare_poses(capture, poses, initial, similarity, settings),
    )
    identity = Similarity.identity()  # the mesh is not moved, only the poses are
    return Evaluation(
        _metrics(comparison, settings, alignment, identity, source, NO_GROUND_TRUTH),
        error_map(comparison.normal_error_deg, masks),
        np.zeros(0, np.float32),
        np.zeros(0, bool),
    )


def _metrics(
    comparison: Comparison,
    settings: EvaluateSettings,
    alignment: str,
    similarity: Similarity,
    normals_from: str,
    note: str | None,
) -> dict[str, Any]:
    """The values of all registered metrics, by column, and how they were measured."""
    return {
        "alignment": alignment,
        **{metric.key: metric.compute(comparison) for metric in metrics_of(settings)},
        "camera_alignment": comparison.poses.camera_alignment,
        "normals_compared_with": normals_from,
        "similarity": {
            "scale": similarity.scale,
            "rotation": similarity.rotation.tolist(),
            "shift": similarity.shift.tolist(),
        },
        "note": note,
    }


def _ground_truth(capture: Capture, rays: Rays) -> GroundTruth:
    """The capture's ground-truth surface, as the rays hit it. Raises InputError if none does."""
    assert capture.ground_truth_mesh is not None
    mesh = capture.ground_truth_mesh
    mesh = replace(mesh, vertices=mesh.vertices.astype(np.float64))
    hits = cast_rays(mesh, rays)
    require_hits(hits.mask, "the ground-truth mesh")
    return GroundTruth(mesh, hits, point_tree(hits.points))


def _point_spacing(ground_truth: GroundTruth, settings: EvaluateSettings) -> float:
    """Median distance between neighbouring ground-truth points, mm."""
    points = sample(ground_truth.hits.points, settings.spacing_points, settings.seed)
    return float(np.median(ground_truth.tree.query(points, k=2)[0][:, 1]))


def _surface_distance(mesh: Mesh, ground_truth: GroundTruth) -> Float[np.ndarray, " N"]:
    """Distance of each vertex from the ground-truth triangles that the nearest hits lie on."""
    triangles = ground_truth.mesh.vertices[ground_truth.mesh.faces]
    return distance_to_surface(
        mesh.vertices, ground_truth.tree, ground_truth.hits.triangles, triangles
    )
