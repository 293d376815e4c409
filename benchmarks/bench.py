"""What every part of the benchmarks is given."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch

from benchmarks.records import Record
from benchmarks.sizes import Sizes


@dataclass(frozen=True)
class Bench:
    """Where to measure, and how much."""

    device: torch.device
    sizes: Sizes


Part: TypeAlias = Callable[[Bench], Iterator[Record]]
"""Measures, and yields each record when it has it."""
