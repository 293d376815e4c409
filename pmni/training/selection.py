"""Which surface is the result: the one that training was given, or the one that it made of it.

A gain on held-out normals counts when it exceeds its own uncertainty. Errors of measured normals
are alike over several pixels, so the blocks of pixels, not the pixels, are the independent units:
the gain is a ratio estimate from a sample of clusters, with the usual standard error of one
(Cochran, Sampling Techniques, 1977, section 6.4).
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from jaxtyping import Float, Int

SIGNIFICANT = 2.0
"""Standard errors that a gain must exceed."""
LEAST_GAIN = 1e-3
"""Of the error, that a gain must exceed. Noise s of the normals and an error e of the surface make
about sqrt(s^2 + e^2): with 5 degrees of noise so much is an error of the surface of 0.87 instead of
0.9 degrees. No mesh shows less, however many pixels prove it."""


@dataclass(frozen=True)
class BlockErrors:
    """The errors of a surface's normals in the held-out blocks, degrees."""

    sums: Float[np.ndarray, "B"]
    """Over the pixels of each block."""
    counts: Int[np.ndarray, "B"]
    """Pixels of each block."""

    @property
    def mean(self) -> float:
        """Over all pixels."""
        return float(self.sums.sum() / self.counts.sum())


@dataclass(frozen=True)
class Gain:
    """By how much one surface's mean error is lower than another's, degrees."""

    value: float
    standard_error: float | None
    """None when fewer than two blocks leave it unknown."""


def gain(before: BlockErrors, after: BlockErrors) -> Gain:
    """The gain over all pixels, from the paired differences of the same blocks."""
    difference, counts = before.sums - after.sums, before.counts
    blocks, pixels = len(counts), counts.sum()
    value = float(difference.sum() / pixels)
    if blocks < 2:
        return Gain(value, None)
    squares = float(((difference - value * counts) ** 2).sum())
    return Gain(value, sqrt(blocks / (blocks - 1) * squares) / float(pixels))


def is_better(found: Gain, error_before: float) -> bool:
    """Whether a gain is significant and worth having."""
    return (
        found.standard_error is not None
        and found.value > SIGNIFICANT * found.standard_error
        and found.value > LEAST_GAIN * error_before
    )


def select(errors: dict[int, BlockErrors], last: int) -> dict[str, Any]:
    """What `selection.json` says: the iteration that is the result, the errors by iteration, and
    the gain of the last over the given surface.

    `errors` are by iteration, that of the given surface is 0. The last iteration is the result
    unless there is a 0 that it is not better than.
    """
    selection: dict[str, Any] = {
        "iteration": last,
        "heldout_error_deg": {step: found.mean for step, found in errors.items()},
    }
    if 0 in errors and last in errors:
        found = gain(errors[0], errors[last])
        if not is_better(found, errors[0].mean):
            selection["iteration"] = 0
        selection["heldout_gain_deg"] = found.value
        selection["heldout_gain_standard_error_deg"] = found.standard_error
        selection["heldout_blocks"] = len(errors[0].counts)
    return selection
