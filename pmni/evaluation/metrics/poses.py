"""Metrics of the camera poses, in three frames.

The surface's frame is that in which the mesh is measured. The cameras' own is that of the best
similarity between the camera centres. The initial poses are measured in their own.
"""

from collections.abc import Callable
from typing import Literal

from pmni.evaluation.comparison import Comparison
from pmni.evaluation.metrics.quantity import Metric
from pmni.evaluation.pose_errors import PoseErrors

FRAMES: dict[str, Callable[[Comparison], PoseErrors | None]] = {
    "surface": lambda comparison: comparison.poses.surface,
    "cameras": lambda comparison: comparison.poses.cameras,
    "initial": lambda comparison: comparison.poses.initial,
}
"""Errors in each of the three frames; None without poses or reference."""

STATISTICS: dict[str, Callable[[PoseErrors], float]] = {
    "rotation_mean": lambda errors: float(errors.rotation_deg.mean()),
    "rotation_max": lambda errors: float(errors.rotation_deg.max()),
    "translation_mean": lambda errors: float(errors.translation_percent.mean()),
}
"""The numbers that sum up the errors of all cameras."""


def _metric(
    key: str,
    label: str,
    meaning: str,
    statistic: Literal["rotation_mean", "rotation_max", "translation_mean"],
    frame: Literal["surface", "cameras", "initial"],
) -> Metric:
    def compute(comparison: Comparison) -> float | None:
        errors = FRAMES[frame](comparison)
        return None if errors is None else STATISTICS[statistic](errors)

    return Metric(
        key=key,
        label=label,
        unit="%" if statistic == "translation_mean" else "°",
        direction="lower",
        format=",.2f",
        meaning=meaning,
        leading=frame == "surface",
        compute=compute,
    )


ROTATION_MEAN = _metric(
    "rotation_error_mean_deg",
    "Rotation error in the surface's frame",
    "Mean angle between our cameras' orientations and the reference's, after the alignment of "
    "the surface.",
    "rotation_mean",
    "surface",
)
ROTATION_MAX = _metric(
    "rotation_error_max_deg",
    "Largest rotation error in the surface's frame",
    "Largest angle between a camera's orientation and the reference's, after the alignment of the "
    "surface.",
    "rotation_max",
    "surface",
)
TRANSLATION = _metric(
    "translation_error_percent",
    "Position error in the surface's frame",
    "Mean distance between our camera centres and the reference's, after the alignment of the "
    "surface, in per cent of the cameras' distance from the object.",
    "translation_mean",
    "surface",
)
ROTATION_MEAN_CAMERAS = _metric(
    "rotation_error_cameras_mean_deg",
    "Rotation error",
    "Mean angle between our cameras' orientations and the reference's, after the "
    "cameras have been moved onto the reference by a similarity.",
    "rotation_mean",
    "cameras",
)
ROTATION_MAX_CAMERAS = _metric(
    "rotation_error_cameras_max_deg",
    "Largest rotation error",
    "Largest angle between a camera's orientation and the reference's, after the cameras have "
    "been moved onto the reference by a similarity.",
    "rotation_max",
    "cameras",
)
TRANSLATION_CAMERAS = _metric(
    "translation_error_cameras_percent",
    "Position error",
    "Mean distance between our camera centres and the reference's, after the cameras have been "
    "moved onto the reference by a similarity, in per cent of the cameras' distance from the "
    "object.",
    "translation_mean",
    "cameras",
)
ROTATION_MEAN_INITIAL = _metric(
    "rotation_error_initial_mean_deg",
    "Rotation error at the start",
    "Mean angle between the initial cameras' orientations and the reference's, after the initial "
    "cameras have been moved onto the reference by a similarity.",
    "rotation_mean",
    "initial",
)
ROTATION_MAX_INITIAL = _metric(
    "rotation_error_initial_max_deg",
    "Largest rotation error at the start",
    "Largest angle between an initial camera's orientation and the reference's, after the initial "
    "cameras have been moved onto the reference by a similarity.",
    "rotation_max",
    "initial",
)
TRANSLATION_INITIAL = _metric(
    "translation_error_initial_percent",
    "Position error at the start",
    "Mean distance between the initial camera centres and the reference's, after the initial "
    "cameras have been moved onto the reference by a similarity, in per cent of the cameras' "
    "distance from the object.",
    "translation_mean",
    "initial",
)
