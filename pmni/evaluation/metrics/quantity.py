"""What describes a number of the benchmark table, and the three kinds of such numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from pmni.config.evaluation import EvaluateSettings
    from pmni.evaluation.comparison import Comparison

Value: TypeAlias = float | int | bool | None
"""A metric's value; None where it cannot be measured."""

Provenance: TypeAlias = Mapping[str, Any]
"""The content of a stage's provenance.json."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number of the benchmark table: its column, and how people read it."""

    key: str
    """Column of benchmark.csv, key in the metrics JSON, and name in the registry."""
    label: str
    """What tables and plots call it."""
    meaning: str
    """One sentence that defines it."""
    unit: str = ""
    """Unit, as written behind the value; empty for pure numbers."""
    direction: Literal["lower", "higher", "none"] = "none"
    """Which values are better."""
    format: str = ",.3f"
    """Format specification of a value."""
    is_count: bool = False
    """Whether values are whole numbers."""
    leading: bool = False
    """Whether its column stands in front of the others in benchmark.csv."""

    @property
    def heading(self) -> str:
        """Label and unit, such as 'Chamfer, mm'."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


@dataclass(frozen=True, kw_only=True)
class Metric(Quantity):
    """A number that `evaluate` measures."""

    compute: Callable[[Comparison], Value]
    """The value of a comparison with the ground truth; None where it cannot be measured."""


@dataclass(frozen=True, kw_only=True)
class CostMetric(Quantity):
    """A number that tells what a result has cost."""

    compute: Callable[[Sequence[Provenance]], Value]
    """The value, from the provenance of the stages that made a result."""


@dataclass(frozen=True, kw_only=True)
class MetricFamily:
    """Metrics that differ by a number in the settings, such as F-scores by their threshold."""

    prefix: str
    """Start of the members' keys; the parameter follows."""
    member: Callable[[float], Metric]
    """The metric of a parameter."""
    parameters: Callable[[EvaluateSettings], tuple[float, ...]]
    """The parameters that the settings ask for."""

    def parse(self, column: str) -> Metric | None:
        """The member whose column that is, if any."""
        try:
            metric = self.member(float(column.removeprefix(self.prefix)))
        except ValueError:
            return None
        return metric if metric.key == column else None
