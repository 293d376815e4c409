"""Measurements as plain records, and how they compare."""

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
    """How, or of what size; the variants of one name are compared with each other."""
    value: float
    unit: str
    """s, MB or 1/s."""
    parameters: dict[str, Any] = field(default_factory=dict)
    against: tuple[str, ...] = ()
    """Variants of the same name and unit that it is compared with."""
    difference: float | None = None
    """Of what it computes from what the first of those computes, relative to the largest value."""


@dataclass(frozen=True)
class Ratio:
    """How many times as much, or as long, as the reference."""

    part: str
    name: str
    variant: str
    reference: str
    unit: str
    ratio: float


def ratios(records: Sequence[Record]) -> list[Ratio]:
    """Each record against its references; those that were not measured are left out."""
    values = {(r.part, r.name, r.unit, r.variant): r.value for r in records}
    found = []
    for record in records:
        for reference in record.against:
            value = values.get((record.part, record.name, record.unit, reference))
            if value is not None and reference != record.variant:
                ratio = record.value / value
                place = (record.part, record.name, record.variant, reference, record.unit)
                found.append(Ratio(*place, ratio))
    return found
