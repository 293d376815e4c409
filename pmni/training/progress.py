"""Lines of text about a training under way."""

import time
from collections.abc import Callable

from pmni.io.tables import Row

COLUMNS = ("loss", "normal", "depth", "mask", "eikonal", "pose_rotation_deg")
"""Columns of the history that are shown."""
LINE_SECONDS = 10.0
"""Least time between two lines."""


def summary(row: Row) -> dict[str, str]:
    """The shown numbers of a row of the history, as text."""
    return {key: f"{row[key]:.4g}" for key in COLUMNS if key in row}


class ProgressLines:
    """An observer that reports steps, speed, remaining time and losses every few seconds."""

    def __init__(
        self,
        steps: int,
        write: Callable[[str], None],
        line_seconds: float = LINE_SECONDS,
    ) -> None:
        self.steps, self.write, self.line_seconds = steps, write, line_seconds

    def on_start(self, steps_done: int) -> None:
        """Start the clock."""
        self.steps_before = steps_done
        self.start = self.last_line = time.monotonic()

    def on_step(self) -> None:
        """Only rows of the history are reported."""

    def on_row(self, row: Row) -> None:
        """A line, if the last one is some seconds ago or this is the last step."""
        now, step = time.monotonic(), int(row["step"])
        if step != self.steps and now - self.last_line <= self.line_seconds:
            return
        self.last_line = now
        rate = (step - self.steps_before) / max(now - self.start, 1e-9)
        remaining = (self.steps - step) / max(rate, 1e-9)
        numbers = " ".join(f"{key} {value}" for key, value in summary(row).items())
        self.write(
            f"step {step}/{self.steps}, {rate:.1f} steps/s, {remaining:.0f} s left: {numbers}"
        )
