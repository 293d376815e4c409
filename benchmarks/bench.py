"""The device and the problem sizes that every part of the benchmarks takes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch

from benchmarks.records import Record
from benchmarks.sizes import Sizes


@dataclass(frozen=True)
class Bench:
    """The device that is measured and the sizes of the problems."""

    device: torch.device
    sizes: Sizes


Part: TypeAlias = Callable[[Bench], Iterator[Record]]
"""A part of the benchmarks: yields its records one by one, as they are measured."""
