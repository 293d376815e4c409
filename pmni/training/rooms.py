"""How much recorded steps have room for: work whose size they have to know beforehand."""

import logging
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

LOGGER = logging.getLogger("train")
SPARE = 1.25
"""Room made, as a multiple of what was needed most."""
FULL, EMPTY = 0.95, 0.6
"""Parts of the room, beyond which it is made anew."""
UNIT = 128
"""Rooms are multiples of this."""


class Rooms:
    """For planes of all patches, and for coarse cells of the occupancy grid near the surface.

    What is needed is noted on the device; rooms follow when they are adapted, which waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.planes: int | None = None
        self.cells: int | None = None
        self.most = torch.zeros(2, dtype=torch.int64, device=device)
        """Planes and cells needed since the rooms were last adapted."""

    @property
    def known(self) -> bool:
        """Whether there are rooms yet."""
        return self.planes is not None and self.cells is not None

    def note_planes(self, needed: Int[Tensor, ""]) -> None:
        """So many planes were needed."""
        self.most[0].copy_(torch.maximum(self.most[0], needed))

    def note_cells(self, needed: Int[Tensor, ""]) -> None:
        """So many coarse cells were near the surface."""
        self.most[1].copy_(torch.maximum(self.most[1], needed))

    def adapt(self, step: int) -> None:
        """Make rooms anew that are too small or far too large; say what did not fit."""
        planes, cells = self.most.tolist()
        if self.planes is not None and planes > self.planes:
            LOGGER.warning(
                "before step %d there was room for %d planes, not %d: the last patches of some "
                "steps were left out, wholly or in part; there is more room now",
                step,
                self.planes,
                planes,
            )
        self.planes, self.cells = _adapted(self.planes, planes), _adapted(self.cells, cells)
        self.most.zero_()

    def state(self) -> dict[str, Any]:
        """What steps depend on: the order of sums may depend on rooms."""
        return {"planes": self.planes, "cells": self.cells, "most": self.most}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.planes, self.cells = state["planes"], state["cells"]
        self.most.copy_(state["most"])


def _adapted(room: int | None, needed: int) -> int | None:
    """The room for so much; what is not known to be needed has the room it had."""
    if needed == 0 or (room is not None and EMPTY * room <= needed <= FULL * room):
        return room
    return -(-int(SPARE * needed) // UNIT) * UNIT
