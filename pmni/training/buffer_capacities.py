"""Capacities of the buffers whose sizes graph-captured steps must know beforehand."""

import logging
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

LOGGER = logging.getLogger("train")
HEADROOM = 1.25
"""New capacity as a multiple of the largest number needed."""
MAX_FILL = 0.95
"""Fraction of a capacity that may be needed before the capacity grows."""
MIN_FILL = 0.6
"""Fraction of a capacity below which the capacity shrinks."""
GRANULARITY = 128
"""Capacities are multiples of this."""


class BufferCapacities:
    """Capacities for the planes of all patches, and for coarse occupancy cells near the surface.

    What is needed is recorded on the device; `adapt` reads it, which waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.planes: int | None = None
        self.cells: int | None = None
        self.needed: Int[Tensor, "2"] = torch.zeros(2, dtype=torch.int64, device=device)
        """Most planes and cells needed since the last `adapt`."""

    @property
    def is_set(self) -> bool:
        """Whether both capacities have been set."""
        return self.planes is not None and self.cells is not None

    def record_planes(self, needed: Int[Tensor, ""]) -> None:
        """Record how many planes a step needed."""
        self.needed[0].copy_(torch.maximum(self.needed[0], needed))

    def record_cells(self, needed: Int[Tensor, ""]) -> None:
        """Record how many coarse cells were near the surface."""
        self.needed[1].copy_(torch.maximum(self.needed[1], needed))

    def adapt(self, step: int) -> None:
        """Set capacities that are too small or far too large anew; warn of what did not fit."""
        planes, cells = self.needed.tolist()
        if self.planes is not None and planes > self.planes:
            LOGGER.warning(
                "before step %d there was room for %d planes, not %d: the last patches of some "
                "steps were left out, wholly or in part; there is more room now",
                step,
                self.planes,
                planes,
            )
        self.planes = _adapted(self.planes, planes)
        self.cells = _adapted(self.cells, cells)
        self.needed.zero_()

    def state(self) -> dict[str, Any]:
        """The part of the resumable state: the order of sums may depend on capacities."""
        return {"planes": self.planes, "cells": self.cells, "needed": self.needed}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.planes, self.cells = state["planes"], state["cells"]
        self.needed.copy_(state["needed"])


def _adapted(capacity: int | None, needed: int) -> int | None:
    """The capacity for a number needed; unchanged where nothing was recorded."""
    if needed == 0:
        return capacity
    if capacity is not None and MIN_FILL * capacity <= needed <= MAX_FILL * capacity:
        return capacity
    return -(-int(HEADROOM * needed) // GRANULARITY) * GRANULARITY
