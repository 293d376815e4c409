"""Metrics of the surface: distances between the points that the reference cameras see."""

from pmni.evaluation.comparison import Comparison
from pmni.evaluation.metrics.quantity import Metric, MetricFamily


def _chamfer(comparison: Comparison) -> float | None:
    errors = comparison.surface_errors
    return None if errors is None else errors.chamfer


def _chamfer_percent(comparison: Comparison) -> float | None:
    errors, size = comparison.surface_errors, comparison.diameter
    return None if errors is None or size is None else 100 * errors.chamfer / size


def _accuracy(comparison: Comparison) -> float | None:
    errors = comparison.surface_errors
    return None if errors is None else errors.accuracy


def _completeness(comparison: Comparison) -> float | None:
    errors = comparison.surface_errors
    return None if errors is None else errors.completeness


def fscore_at(threshold: float) -> Metric:
    """The F-score at a threshold in mm."""

    def compute(comparison: Comparison) -> float | None:
        errors = comparison.surface_errors
        return None if errors is None else errors.fscore(threshold)

    return Metric(
        key=f"fscore_{threshold}",
        label=f"F @ {threshold:g} mm",
        meaning=f"Harmonic mean of the fraction of our points within {threshold:g} mm of the "
        f"ground truth and the fraction of ground-truth points within {threshold:g} mm of ours. "
        "1 is perfect.",
        direction="higher",
        leading=True,
        compute=compute,
    )


CHAMFER = Metric(
    key="chamfer_mm",
    label="Chamfer",
    unit="mm",
    direction="lower",
    meaning="Distance between the two surfaces: the mean of the mean distance from ours to the "
    "ground truth and of the mean distance from the ground truth to ours, over the points that "
    "the reference cameras see.",
    leading=True,
    compute=_chamfer,
)
CHAMFER_PERCENT = Metric(
    key="chamfer_percent",
    label="Chamfer",
    unit="% of Ø",
    direction="lower",
    meaning="The Chamfer distance in per cent of the object's diameter.",
    compute=_chamfer_percent,
)
FSCORE = MetricFamily(
    prefix="fscore_", member=fscore_at, parameters=lambda settings: settings.thresholds
)
DIAMETER = Metric(
    key="diameter_mm",
    label="Diameter of the object",
    unit="mm",
    format=",.1f",
    meaning="Largest distance between two vertices of the ground-truth mesh.",
    compute=lambda comparison: comparison.diameter,
)
ACCURACY = Metric(
    key="accuracy_mm",
    label="Mean distance from ours to the ground truth",
    unit="mm",
    direction="lower",
    meaning="Mean distance from our points to the nearest ground-truth point.",
    compute=_accuracy,
)
COMPLETENESS = Metric(
    key="completeness_mm",
    label="Mean distance from the ground truth to ours",
    unit="mm",
    direction="lower",
    meaning="Mean distance from the ground-truth points to our nearest point.",
    compute=_completeness,
)
MISSED = Metric(
    key="missed",
    label="Fraction of the rays that miss our surface",
    direction="lower",
    format=",.4f",
    meaning="Fraction of the rays through the masks' pixels that hit no triangle of our mesh.",
    compute=lambda comparison: 1 - float(comparison.hits.mask.mean()),
)
