"""Settings of `train`."""

from typing import Literal

from pydantic import Field

from pmni.config.base import Settings


class TrainSettings(Settings):
    """How surface and poses are optimised."""

    steps: int = Field(3000, ge=1)
    """Optimiser steps."""

    checkpoints: tuple[int, ...] = ()
    """Steps whose state is kept for `mesh` and `render`, besides the last."""

    exclude_views: tuple[str, ...] = ()
    """Views held out from training."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPU when there is one; `cuda` without a GPU is an error."""

    seed: int = Field(0, ge=0)
    """Seed of everything random."""

    def kept_steps(self) -> tuple[int, ...]:
        """The steps whose checkpoints are kept, ascending; the last step is always among them."""
        return tuple(sorted({step for step in self.checkpoints if step < self.steps} | {self.steps}))
