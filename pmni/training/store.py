"""How a training's resumable state and kept results leave the loop."""

import copy
from typing import Any, Protocol, runtime_checkable

import torch

from pmni.geometry.poses import Poses
from pmni.io.tables import Row
from pmni.sdf.network import NeuralSDF
from pmni.sdf.residual import ResidualSDF

TrainedSDF = NeuralSDF | ResidualSDF
"""A network, or a refined surface with its correction by a network."""


@runtime_checkable
class TrainingStore(Protocol):
    """Keeps what a training must not lose when its process ends."""

    def load_state(self, device: torch.device) -> dict[str, Any] | None:
        """The last saved state with its tensors on the device; None if there is none."""

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the saved state."""

    def keep(self, iteration: int, surface: TrainedSDF, poses: Poses) -> None:
        """Keep an iteration's results; the surface must be copied or written at once."""


class MemoryStore:
    """The default store: the state is in memory, kept iterations are in the training's result."""

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

    def load_state(self, device: torch.device) -> dict[str, Any] | None:
        """The last saved state, on the device of its training."""
        return self._state

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the saved state by a copy."""
        self._state = copy.deepcopy(state)

    def keep(self, iteration: int, surface: TrainedSDF, poses: Poses) -> None:
        """Nothing: the training's result holds all kept iterations."""


@runtime_checkable
class TrainingObserver(Protocol):
    """Watches a training, such as a progress bar."""

    def on_start(self, steps_done: int) -> None:
        """The loop begins after so many steps of an earlier run."""

    def on_step(self) -> None:
        """One more step is done."""

    def on_row(self, row: Row) -> None:
        """A row of the history is new."""
