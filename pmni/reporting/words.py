"""The words of the report: what each number is called, which way is better, what it means."""

import math
from dataclasses import dataclass
from typing import Any

from pmni.config.training import SelectionSettings


@dataclass(frozen=True)
class Number:
    """How a number is shown."""

    label: str
    unit: str = ""
    decimals: int = 2
    better: int = 0
    """-1 if lower is better, 1 if higher is better, 0 if neither."""
    meaning: str = ""


NUMBERS: dict[str, Number] = {
    "chamfer_mm": Number(
        "Chamfer", "mm", 3, -1,
        "Distance between the two surfaces: the mean of the mean distance from ours to the truth "
        "and of the mean distance from the truth to ours, over the points that the reference "
        "cameras see.",
    ),
    "chamfer_percent": Number(
        "Chamfer", "% of Ø", 3, -1, "The same in per cent of the object's diameter.",
    ),
    "fscore_0.5": Number(
        "F @ 0.5 mm", "", 3, 1,
        "Harmonic mean of the fraction of our points within 0.5 mm of the truth and the fraction "
        "of true points within 0.5 mm of ours. 1 is perfect.",
    ),
    "fscore_1.0": Number("F @ 1 mm", "", 3, 1, "The same within 1 mm."),
    "mae_deg": Number(
        "Normal MAE", "°", 2, -1,
        "Mean angle between our surface's normals and the true ones, over all pixels inside the "
        "masks of all views.",
    ),
    "mae_heldout_deg": Number(
        "Held-out MAE", "°", 2, -1,
        "The same in views that were held out from refinement and training.",
    ),
    "rotation_error_cameras_mean_deg": Number(
        "Rotation error", "°", 2, -1,
        "Mean angle between our cameras' orientations and the reference's, as registered → in the "
        "result, each after the cameras have been moved onto the reference by a similarity.",
    ),
    "translation_error_cameras_percent": Number(
        "Position error", "%", 2, -1,
        "Mean distance between our camera centres and the reference's after the same alignment, "
        "in per cent of the cameras' distance from the object.",
    ),
    "total_seconds": Number("Time", "s", 1, -1, "Wall time of all stages of this object."),
    "refine_seconds": Number("Refinement", "s", 1, -1, "Wall time of the refinement."),
    "train_seconds": Number("Training", "s", 1, -1, "Wall time of the training."),
    "accuracy_mm": Number("Mean distance from ours to the truth", "mm", 3, -1),
    "completeness_mm": Number("Mean distance from the truth to ours", "mm", 3, -1),
    "missed": Number("Part of the rays that miss our surface", "", 4, -1),
    "median_deg": Number("Median error of the normals", "°", 2, -1),
    "mae_training_deg": Number("Normal MAE, training views", "°", 2, -1),
    "rotation_error_cameras_max_deg": Number("Largest rotation error", "°", 2, -1),
    "rotation_error_initial_mean_deg": Number("Rotation error at the start", "°", 2, -1),
    "rotation_error_initial_max_deg": Number("Largest rotation error at the start", "°", 2, -1),
    "translation_error_initial_percent": Number("Position error at the start", "%", 2, -1),
    "rotation_error_mean_deg": Number("Rotation error in the surface's frame", "°", 2, -1),
    "rotation_error_max_deg": Number("Largest rotation error in the surface's frame", "°", 2, -1),
    "translation_error_percent": Number("Position error in the surface's frame", "%", 2, -1),
    "diameter_mm": Number("Diameter of the object", "mm", 1),
    "vertices": Number("Vertices", "", 0),
    "peak_memory_mb": Number("Peak memory", "MB", 0, -1),
}  # fmt: skip

ALIGNMENTS = {
    "none": "not aligned: measured where it lies",
    "cameras": "moved onto the truth by the camera centres (a similarity)",
    "icp": "moved onto the true surface by ICP (a similarity), started from the cameras",
}


@dataclass(frozen=True)
class PoseKind:
    """What an experiment is told of the cameras."""

    label: str
    kind: str
    """`given`, `disturbed` or `free`: the colour of its badge."""
    meaning: str


def pose_kind(method: str) -> PoseKind:
    """Whether an experiment's registration knows the reference poses."""
    if method == "reference":
        return PoseKind("reference poses", "given", "The true cameras are given.")
    if method == "noisy":
        return PoseKind("disturbed poses", "disturbed", "Starts from the true cameras plus noise.")
    if method == "free":
        meaning = "No camera pose is given; they are found from the normal maps and masks."
    else:
        meaning = f"No camera pose is given; they start from registration '{method}'."
    return PoseKind("pose-free", "free", meaning)


def verdict(
    refined: bool,
    trained: bool,
    result: int,
    last: int,
    errors: dict[int, float],
    gain: float | None = None,
    standard_error: float | None = None,
) -> str:
    """Which surface is the result, and why: `errors` on held-out normals by iteration, and what the
    network gained of the refined surface's, degrees."""
    if not trained:
        return "The refined surface is the result; this experiment trains no network."
    if not refined:
        return ""
    if 0 not in errors or last not in errors:
        name = "the refined surface" if result == 0 else f"the surface at iteration {result}"
        return f"The result is {name}."
    before, after = errors[0], errors[last]
    versus = f"{after:.2f} vs {before:.2f} degrees"
    if gain is None:
        gain = before - after
    amount = f"{gain:.3f}" if standard_error is None else f"{gain:.3f} \u00b1 {standard_error:.3f}"
    if result != 0:
        return (
            f"The network lowered the error on held-out normals by {amount} degrees ({versus}), so "
            f"its surface at iteration {result} is the result."
        )
    if gain <= 0:
        return (
            f"Kept the refined surface: the network did not lower the error on held-out normals "
            f"({versus})."
        )
    proved = standard_error is not None and gain > SelectionSettings().significance * standard_error
    lacks = "too small to matter" if proved else "not significant"
    return (
        f"Kept the refined surface: the network's gain of {amount} degrees on held-out normals "
        f"({versus}) is {lacks}."
    )


def label_of(key: str) -> str:
    """What a number is called, with its unit; its key if it has no name."""
    if key in NUMBERS:
        number = NUMBERS[key]
        return f"{number.label}, {number.unit}" if number.unit else number.label
    if key.startswith("fscore_"):
        return f"F @ {key.removeprefix('fscore_')} mm"
    return key.replace("_", " ")


def shown(key: str, value: Any) -> str:
    """A value as people read it; '–' where there is none."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if key in NUMBERS:
            return f"{value:,.{NUMBERS[key].decimals}f}"
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return str(value)
