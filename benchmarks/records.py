"""Records of measurements, and their ratios."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Record:
    """One measurement."""

    part: str
    name: str
    """What was measured."""
    variant: str
    """Implementation, phase or problem size; variants of one name are compared with each other."""
    value: float
    unit: str
    """s, MB or 1/s."""
    parameters: dict[str, Any] = field(default_factory=dict)
    against: tuple[str, ...] = ()
    """Reference variants, of the same name and unit."""
    difference: float | None = None
    """Largest difference from the results of the first reference, relative to their maximum."""


@dataclass(frozen=True)
class Ratio:
    """Ratio of a measurement to its reference."""

    part: str
    name: str
    variant: str
    reference: str
    unit: str
    ratio: float


def ratios(records: Sequence[Record]) -> list[Ratio]:
    """Ratios of all records to their references, as far as those were measured."""
    values = {(r.part, r.name, r.unit, r.variant): r.value for r in records}
    result = []
    for record in records:
        for reference in record.against:
            value = values.get((record.part, record.name, record.unit, reference))
            if value is not None and reference != record.variant:
                ratio = record.value / value
                key = (record.part, record.name, record.variant, reference, record.unit)
                result.append(Ratio(*key, ratio))
    return result
