"""All registered metrics: those that settings ask for, those that cost, and lookup by column."""

from collections.abc import Iterable, Mapping

from pmni.config.evaluation import EvaluateSettings
from pmni.config.extensions import METRICS
from pmni.errors import InputError
from pmni.evaluation.metrics.quantity import CostMetric, Metric, MetricFamily, Quantity


def quantities(settings: EvaluateSettings | None = None) -> tuple[Quantity, ...]:
    """All registered numbers in order, families with the members of `settings` (default: the
    default ones). Raises InputError for a metric whose key is not its name in the registry."""
    settings = settings or EvaluateSettings()
    members: list[Quantity] = []
    for entry in _entries().values():
        if isinstance(entry, MetricFamily):
            members += map(entry.member, entry.parameters(settings))
        else:
            members.append(entry)
    return tuple(members)


def metrics_of(settings: EvaluateSettings) -> tuple[Metric, ...]:
    """The numbers that `evaluate` measures with these settings."""
    return tuple(entry for entry in quantities(settings) if isinstance(entry, Metric))


def cost_metrics() -> tuple[CostMetric, ...]:
    """The numbers that tell what a result has cost."""
    return tuple(entry for entry in quantities() if isinstance(entry, CostMetric))


def find_quantity(column: str) -> Quantity | None:
    """The number that stands in a column of the benchmark table; None for any other column."""
    entries = _entries()
    entry = entries.get(column)
    if isinstance(entry, Quantity):
        return entry
    families = (entry for entry in entries.values() if isinstance(entry, MetricFamily))
    return next(filter(None, (family.parse(column) for family in families)), None)


def leading_columns() -> tuple[str, ...]:
    """Columns of the numbers that stand in front in benchmark.csv, with the default settings."""
    return tuple(entry.key for entry in quantities() if entry.leading)


def column_order(columns: Iterable[str]) -> list[str]:
    """Those of the columns that hold registered numbers, in the registry's order."""
    columns = list(columns)
    order: list[str] = []
    for entry in _entries().values():
        if isinstance(entry, MetricFamily):
            order += [column for column in columns if entry.parse(column)]
        elif entry.key in columns:
            order.append(entry.key)
    return order


def _entries() -> Mapping[str, Quantity | MetricFamily]:
    entries = {name: METRICS[name] for name in METRICS}
    for name, entry in entries.items():
        if isinstance(entry, Quantity) and entry.key != name:
            raise InputError(
                f"the metric registered as '{name}' has the key '{entry.key}'; "
                "the two must be the same"
            )
    return entries
