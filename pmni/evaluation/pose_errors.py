"""Errors of camera poses against a capture's reference poses."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.geometry.poses import Poses
from pmni.geometry.transforms import Similarity, rotation_angle_deg


@dataclass(frozen=True)
class PoseErrors:
    """Errors of each camera."""

    rotation_deg: Float[np.ndarray, " V"]
    """Angle between the orientations, degrees."""
    translation_percent: Float[np.ndarray, " V"]
    """Distance of the centres in percent of the cameras' mean distance from the object."""


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
