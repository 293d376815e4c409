"""Metrics of the normals: angles over the pixels inside the masks."""

import numpy as np
from jaxtyping import Bool, Float

from pmni.evaluation.comparison import Comparison
from pmni.evaluation.metrics.quantity import Metric


def _mean(values: Float[np.ndarray, " P"], chosen: Bool[np.ndarray, " P"]) -> float | None:
    """Mean of the chosen finite values; None if there is none."""
    chosen = chosen & np.isfinite(values)
    return float(values[chosen].mean()) if chosen.any() else None


def _mae(comparison: Comparison) -> float | None:
    angles = comparison.normal_error_deg
    return _mean(angles, np.ones(len(angles), bool))


def _mae_heldout(comparison: Comparison) -> float | None:
    return _mean(comparison.normal_error_deg, comparison.held_out)


def _mae_training(comparison: Comparison) -> float | None:
    return _mean(comparison.normal_error_deg, ~comparison.held_out)


def _median(comparison: Comparison) -> float | None:
    measured = comparison.normal_error_deg[np.isfinite(comparison.normal_error_deg)]
    return float(np.median(measured)) if len(measured) else None


MAE = Metric(
    key="mae_deg",
    label="Normal MAE",
    unit="°",
    direction="lower",
    format=",.2f",
    meaning="Mean angle between our surface's normals and the ground-truth ones, over all pixels "
    "inside the masks of all views.",
    leading=True,
    compute=_mae,
)
MAE_HELDOUT = Metric(
    key="mae_heldout_deg",
    label="Held-out MAE",
    unit="°",
    direction="lower",
    format=",.2f",
    meaning="Mean angle between the normals in the views that were held out from refinement and "
    "training.",
    leading=True,
    compute=_mae_heldout,
)
MAE_TRAINING = Metric(
    key="mae_training_deg",
    label="Normal MAE, training views",
    unit="°",
    direction="lower",
    format=",.2f",
    meaning="Mean angle between the normals in the views that were not held out.",
    compute=_mae_training,
)
MEDIAN = Metric(
    key="median_deg",
    label="Median error of the normals",
    unit="°",
    direction="lower",
    format=",.2f",
    meaning="Median angle between the normals, over all pixels inside the masks of all views.",
    compute=_median,
)
