"""The files of a training: resumable state, checkpoints, poses, TensorBoard log."""

import io
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from pmni.config.training import FieldSettings
from pmni.geometry.poses import Poses
from pmni.io.atomic import atomic_file
from pmni.io.hashing import verify_checksum, write_checksum
from pmni.io.poses import write_poses
from pmni.io.tables import Row
from pmni.runtime.layout import TrainingFolder
from pmni.sdf.checkpoint import save_surface
from pmni.training.progress import summary
from pmni.training.store import TrainedSDF


class FileStore:
    """Keeps a training in a folder: `state.pt`, and kept iterations as in the results."""

    def __init__(self, folder: TrainingFolder, field: FieldSettings) -> None:
        self.folder, self.field = folder, field
        self.state_file = folder.folder / "state.pt"

    def load_state(self, device: torch.device) -> dict[str, Any] | None:
        """The saved state; None without one. Raises InputError when it is damaged."""
        return load_state(self.state_file, device) if self.state_file.is_file() else None

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the saved state, atomically."""
        save_state(self.state_file, state)

    def keep(self, iteration: int, surface: TrainedSDF, poses: Poses) -> None:
        """Write the checkpoint and the poses of an iteration."""
        save_surface(self.folder.checkpoint(iteration), surface, self.field, iteration)
        write_poses(self.folder.poses(iteration), poses)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a resumable state atomically, with its checksum."""
    buffer = io.BytesIO()  # a full disk then fails as an ordinary write
    torch.save(state, buffer)
    with atomic_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    write_checksum(path)


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a resumable state. Raises InputError when it is damaged."""
    verify_checksum(path)
    return torch.load(path, map_location=device, weights_only=True)


class TensorBoardLog:
    """An observer that writes the history's numbers for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if hasattr(self, "writer"):
            self.writer.close()

    def on_start(self, steps_done: int) -> None:
        """Open the log; numbers of later steps, from before an interruption, are dropped."""
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(self.folder), purge_step=steps_done)

    def on_step(self) -> None:
        """Only rows of the history are written."""

    def on_row(self, row: Row) -> None:
        """Write all numbers of a row."""
        step = int(row["step"])
        for key, value in row.items():
            if key != "step":
                self.writer.add_scalar(key, value, step)


class ProgressBar:
    """An observer that shows a bar on a terminal."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @staticmethod
    def is_shown() -> bool:
        """Whether there is a terminal to show it on."""
        return sys.stderr.isatty()

    def on_start(self, steps_done: int) -> None:
        """Show the bar."""
        from tqdm import tqdm

        self.bar = tqdm(total=self.steps, initial=steps_done, unit="step", leave=False)

    def on_step(self) -> None:
        """Advance by a step; the bar goes away after the last one."""
        self.bar.update()
        if self.bar.n >= self.steps:
            self.bar.close()

    def on_row(self, row: Row) -> None:
        """Show the losses."""
        self.bar.set_postfix(summary(row))
