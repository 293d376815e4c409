"""Labels and values of metrics as the page shows them, from the registry of metrics."""

import math
from typing import Any

from pmni.evaluation.metrics import find_quantity

ARROWS = {"lower": "↓", "none": "", "higher": "↑"}
"""Signs of the direction in which a metric improves."""

ALIGNMENTS = {
    "none": "not aligned: measured in its own frame",
    "cameras": "moved onto the ground truth by the camera centres (a similarity)",
    "icp": "moved onto the ground-truth surface by ICP (a similarity), started from the cameras",
}
"""How a result is moved before it is measured, by the name of the alignment."""


def heading_of(key: str) -> str:
    """Label and unit of a metric; its key with spaces if it is not registered."""
    quantity = find_quantity(key)
    return quantity.heading if quantity else key.replace("_", " ")


def format_value(key: str, value: Any) -> str:
    """A value in the format of its metric; '–' where there is none."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if quantity := find_quantity(key):
            return f"{value:{quantity.format}}"
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return str(value)
