"""The registered metrics: what each number is called and means, and how it is computed."""

from pmni.evaluation.metrics.catalogue import (
    column_order,
    cost_metrics,
    find_quantity,
    leading_columns,
    metrics_of,
    quantities,
)
from pmni.evaluation.metrics.quantity import CostMetric, Metric, MetricFamily, Quantity, Value

__all__ = [
    "CostMetric",
    "Metric",
    "MetricFamily",
    "Quantity",
    "Value",
    "column_order",
    "cost_metrics",
    "find_quantity",
    "leading_columns",
    "metrics_of",
    "quantities",
]
