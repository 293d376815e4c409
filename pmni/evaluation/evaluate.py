"""Compare a mesh and poses with the truth, as SuperNormal (Cao and Taketomi, CVPR 2024) does.

Points are the first hits of the rays through every pixel inside the masks, seen from the
reference cameras, on the true mesh and on the reconstructed one. A pose-free reconstruction lives
in a similarity frame of its own and is moved onto the truth first.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float16, Shaped

from pmni.config.evaluation import EvaluateSettings
from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.evaluation.alignment import (
    PoseErrors,
    align_cameras,
    align_rotations,
    closest,
    icp,
    pose_errors,
)
from pmni.evaluation.metrics import (
    angle_deg,
    diameter,
    distance_to_surface,
    nearest,
    point_tree,
    surface_errors,
)
from pmni.evaluation.surface import Rays, Seen, Target, look, mask_rays
from pmni.geometry.mesh import Mesh, open_edges
from pmni.geometry.poses import Poses
from pmni.geometry.transforms import Similarity

ICP_POINTS = 30_000


@dataclass(frozen=True)
class Evaluation:
    """Numbers, and where the errors are."""

    metrics: dict[str, Any]
    """Flat; None for what cannot be measured."""
    normal_error_deg: Float16[np.ndarray, "V H W"]
    """NaN outside the masks and where no surface was hit."""
    surface_distance_mm: Float[np.ndarray, "N"]
    """Of each vertex of the aligned mesh to the true surface that the views see; empty without."""
    seen: Bool[np.ndarray, "N"]
    """Vertices near a point that a ray of the masks hits; empty without a true mesh."""


def evaluate(
    capture: Capture,
    mesh: Mesh,
    poses: Poses | None,
    initial: Poses | None,
    settings: EvaluateSettings,
) -> Evaluation:
    """Everything that can be said of a mesh (dataset units) and poses (normalised world).

    With a true mesh and reference poses all of it. Otherwise only the angles between the mesh's
    normals, seen by the estimated cameras, and the capture's normals. Raises InputError when the
    alignment asked for needs poses that are not there, or no ray hits the mesh.
    """
    unknown = [view for view in settings.exclude_views if view not in capture.views]
    if unknown:
        raise InputError(f"exclude_views: unknown view '{unknown[0]}'; known: {capture.views}")
    if len(mesh.faces) == 0 or not np.isfinite(mesh.vertices).all():
        raise InputError("the mesh has no faces, or vertices that are not finite")
    if capture.ground_truth_vertices is None or capture.reference_c2w is None:
        return _without_truth(capture, mesh, poses, initial, settings)
    return _with_truth(capture, mesh, poses, initial, settings)


def _with_truth(
    capture: Capture,
    mesh: Mesh,
    poses: Poses | None,
    initial: Poses | None,
    settings: EvaluateSettings,
) -> Evaluation:
    reference = _reference(capture, capture.views)
    true_mesh = _true_mesh(capture)
    rays = mask_rays(capture.masks, capture.intrinsics, reference)
    truth = look(true_mesh, rays)
    _require_hits(truth.hit, "the ground-truth mesh")
    truth_tree = point_tree(truth.points)

    similarity = Similarity.identity()
    if settings.alignment != "none":
        starts = _camera_starts(capture, poses, settings.alignment)
        sample = _sample(mesh.vertices.astype(np.float64), 5000, settings.seed)
        similarity = starts[0] if len(starts) == 1 else closest(starts, sample, truth_tree)
    if settings.alignment == "icp":
        at_start = Target(_moved(mesh, similarity))
        triangle = at_start.first(rays)
        _require_hits(triangle >= 0, "the mesh, aligned by its cameras,")
        chosen = _sample(np.flatnonzero(triangle >= 0), ICP_POINTS, settings.seed)
        points, _ = at_start.meet(rays, chosen, triangle[chosen])
        similarity = icp(similarity.inverse()(points), truth_tree, truth.normals, similarity)

    moved = _moved(mesh, similarity)
    seen = look(moved, rays)
    _require_hits(seen.hit, "the mesh")
    mesh_tree = point_tree(seen.points)
    errors = surface_errors(mesh_tree, truth_tree)
    ground_truth_normals, source = _ground_truth_normals(capture, rays, truth, reference)
    angles = np.full(len(rays.view), np.nan)
    angles[seen.hit] = angle_deg(seen.normals, ground_truth_normals[seen.hit])

    size = diameter(true_mesh.vertices)
    metrics = {
        "alignment": settings.alignment,
        "chamfer_mm": errors.chamfer,
        "chamfer_percent": 100 * errors.chamfer / size,
        **{f"fscore_{threshold}": errors.fscore(threshold) for threshold in settings.thresholds},
        **_normal_metrics(angles, rays, capture, settings),
        **_pose_metrics(capture, poses, initial, settings.alignment, similarity),
        **_mesh_metrics(mesh),
        "diameter_mm": size,
        "accuracy_mm": errors.accuracy,
        "completeness_mm": errors.completeness,
        "missed": 1 - float(seen.hit.mean()),
        "normals_compared_with": source,
        "similarity": _plain(similarity),
        "note": None,
    }
    triangles = true_mesh.vertices[true_mesh.faces]
    distance = distance_to_surface(moved.vertices, truth_tree, truth.triangle, triangles)
    spacing = np.median(truth_tree.query(_sample(truth.points, 2000, settings.seed), k=2)[0][:, 1])
    near = nearest(mesh_tree, moved.vertices, 3 * spacing) < 3 * spacing
    return Evaluation(metrics, _image(angles, capture), distance.astype(np.float32), near)


def _without_truth(
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
    views = tuple(view for view in capture.views if view in poses.views)
    index = [capture.views.index(view) for view in views]
    rays = mask_rays(
        capture.masks[index], capture.intrinsics[index], _in_dataset(poses.select(views), capture)
    )
    centres = _in_order(rays.centres, index, capture)
    rays = Rays(np.array(index)[rays.view], centres, rays.directions)
    seen = look(mesh, rays)
    _require_hits(seen.hit, "the mesh")
    rotations = _in_order(poses.select(views)[:, :3, :3], index, capture)
    given = (
        capture.normals if capture.ground_truth_normals is None else capture.ground_truth_normals
    )
    inside = capture.masks & np.isin(np.arange(len(capture.views)), index)[:, None, None]
    normals = np.einsum("pij,pj->pi", rotations[rays.view], given[inside].astype(float))
    angles = np.full(len(rays.view), np.nan)
    angles[seen.hit] = angle_deg(seen.normals, _known(normals)[seen.hit])
    alignment = "cameras" if settings.alignment != "none" else "none"
    similarity = Similarity.identity()
    if capture.reference_c2w is not None and alignment == "cameras":
        similarity = _camera_starts(capture, poses, alignment)[0]
    nothing = ["chamfer_mm", "chamfer_percent", *(f"fscore_{t}" for t in settings.thresholds)]
    metrics = {
        "alignment": alignment if capture.reference_c2w is not None else "none",
        **dict.fromkeys(nothing),
        **_normal_metrics(angles, rays, capture, settings),
        **_pose_metrics(capture, poses, initial, alignment, similarity),
        **_mesh_metrics(mesh),
        **dict.fromkeys(["diameter_mm", "accuracy_mm", "completeness_mm"]),
        "missed": 1 - float(seen.hit.mean()),
        "normals_compared_with": "ground_truth_normals"
        if capture.ground_truth_normals is not None
        else "input",
        "similarity": _plain(Similarity.identity()),
        "note": "no ground-truth mesh with reference poses: the surface is not measured; normals "
        "are compared as the estimated cameras see the mesh",
    }
    errors = np.full(capture.masks.shape, np.nan, np.float16)
    errors[inside] = angles
    return Evaluation(metrics, errors, np.zeros(0, np.float32), np.zeros(0, bool))


def _camera_starts(capture: Capture, poses: Poses | None, alignment: str) -> list[Similarity]:
    """Alignments by cameras: the one of the protocol, for ICP also the one by rotations."""
    if poses is None:
        if alignment == "cameras":
            raise InputError("alignment 'cameras' needs the estimated poses: give --poses")
        return [Similarity.identity()]
    estimated, reference = _shared(capture, poses)
    by_cameras, _ = align_cameras(estimated, reference)
    if alignment == "cameras":
        return [by_cameras]
    return [by_cameras, align_rotations(estimated, reference)]


def _shared(
    capture: Capture, poses: Poses
) -> tuple[Float[np.ndarray, "N 4 4"], Float[np.ndarray, "N 4 4"]]:
    """Estimated and reference poses of the views that have both, dataset units."""
    views = tuple(view for view in capture.views if view in poses.views)
    if not views:
        raise InputError(f"the poses are of none of the capture's views {capture.views}")
    return _in_dataset(poses.select(views), capture), _reference(capture, views)


def _pose_metrics(
    capture: Capture,
    poses: Poses | None,
    initial: Poses | None,
    alignment: str,
    similarity: Similarity,
) -> dict[str, Any]:
    """Errors in the frame of the mesh, in the cameras' own, and of the initial poses in theirs."""
    names = ("rotation_error_mean_deg", "rotation_error_max_deg", "translation_error_percent")
    metrics: dict[str, Any] = dict.fromkeys(names)
    metrics |= {_tagged(name, tag): None for tag in ("cameras", "initial") for name in names}
    metrics["camera_alignment"] = None
    if capture.reference_c2w is None:
        return metrics

    def summary(errors: PoseErrors) -> tuple[float, float, float]:
        angle = errors.rotation_deg
        return float(angle.mean()), float(angle.max()), float(errors.translation_percent.mean())

    if poses is not None:
        estimated, reference = _shared(capture, poses)
        errors = pose_errors(estimated, reference, similarity, capture.offset)
        metrics |= dict(zip(names, summary(errors), strict=True))
        own, metrics["camera_alignment"] = align_cameras(estimated, reference)
        errors = pose_errors(estimated, reference, own, capture.offset)
        tagged = [_tagged(name, "cameras") for name in names]
        metrics |= dict(zip(tagged, summary(errors), strict=True))
    if initial is not None:
        estimated, reference = _shared(capture, initial)
        own = Similarity.identity()
        if alignment != "none":
            own, _ = align_cameras(estimated, reference)
        errors = pose_errors(estimated, reference, own, capture.offset)
        tagged = [_tagged(name, "initial") for name in names]
        metrics |= dict(zip(tagged, summary(errors), strict=True))
    return metrics


def _tagged(name: str, tag: str) -> str:
    """rotation_error_mean_deg -> rotation_error_initial_mean_deg."""
    return name.replace("_error_", f"_error_{tag}_")


def _normal_metrics(
    angles: Float[np.ndarray, "P"], rays: Rays, capture: Capture, settings: EvaluateSettings
) -> dict[str, float | None]:
    held_out = np.isin(capture.views, settings.exclude_views)[rays.view]
    measured = np.isfinite(angles)

    def mean(chosen: np.ndarray) -> float | None:
        return float(angles[chosen].mean()) if chosen.any() else None

    return {
        "mae_deg": mean(measured),
        "mae_heldout_deg": mean(measured & held_out),
        "mae_training_deg": mean(measured & ~held_out),
        "median_deg": float(np.median(angles[measured])) if measured.any() else None,
    }


def _ground_truth_normals(
    capture: Capture, rays: Rays, truth: Seen, reference: Float[np.ndarray, "V 4 4"]
) -> tuple[Float[np.ndarray, "P 3"], str]:
    """True normals of the rays, world frame, NaN where unknown; and where they are from."""
    if capture.ground_truth_normals is None:
        normals = np.full((len(rays.view), 3), np.nan)
        normals[truth.hit] = truth.normals
        return normals, "true_mesh"
    local = capture.ground_truth_normals[capture.masks].astype(np.float64)
    world = np.einsum("pij,pj->pi", reference[rays.view, :3, :3], local)
    return _known(world), "ground_truth_normals"


def _known(normals: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "P 3"]:
    """NaN where there is no normal (maps are zero there)."""
    return np.where(np.linalg.norm(normals, axis=1, keepdims=True) > 0.5, normals, np.nan)


def _mesh_metrics(mesh: Mesh) -> dict[str, int | bool]:
    return {"vertices": len(mesh.vertices), "watertight": len(open_edges(mesh)) == 0}


def _true_mesh(capture: Capture) -> Mesh:
    assert capture.ground_truth_vertices is not None
    assert capture.ground_truth_faces is not None
    return Mesh(capture.ground_truth_vertices.astype(np.float64), capture.ground_truth_faces)


def _reference(capture: Capture, views: tuple[str, ...]) -> Float[np.ndarray, "N 4 4"]:
    """Reference poses of some views in dataset units."""
    assert capture.reference_c2w is not None
    return _in_dataset(Poses(capture.views, capture.reference_c2w).select(views), capture)


def _in_dataset(c2w: Float[np.ndarray, "N 4 4"], capture: Capture) -> Float[np.ndarray, "N 4 4"]:
    """Poses of the normalised world with their centres in dataset units."""
    return Similarity(capture.scale, np.eye(3), capture.offset).move_cameras(c2w)


def _in_order(values: np.ndarray, index: list[int], capture: Capture) -> np.ndarray:
    """Values of some views at their places among all views, NaN for the others."""
    ordered = np.full((len(capture.views), *values.shape[1:]), np.nan)
    ordered[index] = values
    return ordered


def _moved(mesh: Mesh, similarity: Similarity) -> Mesh:
    return Mesh(similarity(mesh.vertices.astype(np.float64)), mesh.faces)


def _sample(points: Shaped[np.ndarray, "N *each"], most: int, seed: int) -> np.ndarray:
    """At most that many of the points, drawn without repetition."""
    if len(points) <= most:
        return points
    return points[np.random.default_rng(seed).choice(len(points), most, replace=False)]


def _image(angles: Float[np.ndarray, "P"], capture: Capture) -> Float16[np.ndarray, "V H W"]:
    image = np.full(capture.masks.shape, np.nan, np.float16)
    image[capture.masks] = angles
    return image


def _require_hits(hit: Bool[np.ndarray, "P"], what: str) -> None:
    if not hit.any():
        raise InputError(
            f"no ray through the masks hits {what}: wrong frame or units? "
            "meshes are in dataset units"
        )


def _plain(similarity: Similarity) -> dict[str, Any]:
    return {
        "scale": similarity.scale,
        "rotation": similarity.rotation.tolist(),
        "shift": similarity.shift.tolist(),
    }
