"""How a training goes: TensorBoard, and progress for people."""

import logging
import sys
import time
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter
from tqdm import tqdm

from pmni.io.tables import Row

LOGGER = logging.getLogger("train")


class Progress:
    """A bar on a terminal, a line every few seconds in a log, and TensorBoard."""

    def __init__(self, steps: int, done: int, tensorboard: Path, line_seconds: float = 10) -> None:
        self.bar = tqdm(
            total=steps, initial=done, unit="step", disable=not sys.stderr.isatty(), leave=False
        )
        self.writer = SummaryWriter(str(tensorboard), purge_step=done)
        self.steps = steps
        self.line_seconds = line_seconds
        self.start = self.last_line = time.monotonic()
        self.first = done

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()
        self.writer.close()

    def advance(self) -> None:
        """One more step is done."""
        self.bar.update()

    def report(self, row: Row) -> None:
        """Show a row of the history."""
        step = int(row["step"])
        for key, value in row.items():
            if key != "step":
                self.writer.add_scalar(key, value, step)
        shown: dict[str, Any] = {
            key: f"{row[key]:.4g}"
            for key in ("loss", "normal", "depth", "mask", "eikonal", "pose_rotation_deg")
            if key in row
        }
        self.bar.set_postfix(shown)
        now = time.monotonic()
        last = step == self.steps
        if self.bar.disable and (last or now - self.last_line > self.line_seconds):
            self.last_line = now
            rate = (step - self.first) / max(now - self.start, 1e-9)
            remaining = (self.steps - step) / max(rate, 1e-9)
            numbers = " ".join(f"{key} {value}" for key, value in shown.items())
            LOGGER.info(
                "step %d/%d, %.1f steps/s, %.0f s left: %s",
                step,
                self.steps,
                rate,
                remaining,
                numbers,
            )
