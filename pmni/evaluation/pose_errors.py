"""Errors of camera poses against a capture's reference poses."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from pmni.config.evaluation import EvaluateSettings
from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.evaluation.alignment import align_cameras
from pmni.geometry.poses import Poses
from pmni.geometry.transforms import Similarity, rotation_angle_deg


@dataclass(frozen=True)
class PoseErrors:
    """Errors of each camera."""

    rotation_deg: Float[np.ndarray, " V"]
    """Angle between the orientations, degrees."""
    translation_percent: Float[np.ndarray, " V"]
    """Distance of the centres in percent of the cameras' mean distance from the object."""


@dataclass(frozen=True)
class PoseComparison:
    """Errors of a result's poses in each frame; None without poses, or without a reference."""

    surface: PoseErrors | None = None
    """Errors in the frame in which the surface is measured."""
    cameras: PoseErrors | None = None
    """Errors after the best alignment of the cameras alone."""
    initial: PoseErrors | None = None
    """Errors of the initial poses, after an alignment of the cameras unless none is asked for."""
    camera_alignment: Literal["centres", "rotations"] | None = None
    """What the alignment of the cameras alone is computed from."""


def compare_poses(
    capture: Capture,
    poses: Poses | None,
    initial: Poses | None,
    similarity: Similarity,
    settings: EvaluateSettings,
) -> PoseComparison:
    """Errors of the poses and of the initial ones; `similarity` is the alignment of the surface."""
    comparison = PoseComparison()
    if capture.reference_c2w is None:
        return comparison
    if poses is not None:
        pair = common_poses(capture, poses)
        own, method = align_cameras(*pair, settings.collinearity)
        comparison = PoseComparison(
            surface=pose_errors(*pair, similarity, capture.offset),
            cameras=pose_errors(*pair, own, capture.offset),
            camera_alignment=method,
        )
    if initial is not None:
        pair = common_poses(capture, initial)
        own = Similarity.identity()
        if settings.alignment != "none":
            own, _ = align_cameras(*pair, settings.collinearity)
        comparison = replace(comparison, initial=pose_errors(*pair, own, capture.offset))
    return comparison


def pose_errors(
    estimated: Float[np.ndarray, "V 4 4"],
    reference: Float[np.ndarray, "V 4 4"],
    similarity: Similarity,
    object_centre: Float[np.ndarray, "3"],
) -> PoseErrors:
    """Errors of the estimated c2w poses after they have been moved by `similarity`."""
    moved = similarity.move_cameras(estimated)
    distance = np.linalg.norm(moved[:, :3, 3] - reference[:, :3, 3], axis=1)
    from_object = np.linalg.norm(reference[:, :3, 3] - object_centre, axis=1).mean()
    angle = rotation_angle_deg(moved[:, :3, :3], reference[:, :3, :3])
    return PoseErrors(angle, 100 * distance / from_object)


def common_poses(
    capture: Capture, poses: Poses
) -> tuple[Float[np.ndarray, "N 4 4"], Float[np.ndarray, "N 4 4"]]:
    """Estimated and reference c2w of the views that have both, dataset units.

    Raises InputError if there is no such view.
    """
    views = tuple(view for view in capture.views if view in poses.views)
    if not views:
        raise InputError(f"the poses are of none of the capture's views {capture.views}")
    return in_dataset_units(poses.select(views), capture), reference_poses(capture, views)


def reference_poses(capture: Capture, views: tuple[str, ...]) -> Float[np.ndarray, "N 4 4"]:
    """Reference c2w of some views, dataset units."""
    assert capture.reference_c2w is not None
    return in_dataset_units(Poses(capture.views, capture.reference_c2w).select(views), capture)


def in_dataset_units(
    c2w: Float[np.ndarray, "N 4 4"], capture: Capture
) -> Float[np.ndarray, "N 4 4"]:
    """c2w of the normalised world with their centres in dataset units."""
    return Similarity(capture.scale, np.eye(3), capture.offset).move_cameras(c2w)
