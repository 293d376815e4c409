"""The choice of the result: the surface that training was given, or the one that it has made of it.

A gain on held-out normals counts when it exceeds its own uncertainty. Errors of measured normals
are correlated over several pixels, so the blocks of pixels, not the pixels, are the independent
units: the gain is a ratio estimate from a sample of clusters, with the usual standard error of one
(Cochran, Sampling Techniques, 1977, section 6.4).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from pmni.config.training import SelectionSettings


@dataclass(frozen=True)
class BlockErrors:
    """Angular errors of a surface's normals in B held-out blocks, degrees."""

    sums: Float[np.ndarray, " B"]
    """Sums over the pixels of each block."""
    counts: Int[np.ndarray, " B"]
    """Numbers of pixels of each block."""

    @property
    def mean(self) -> float:
        """Mean over all pixels."""
        return float(self.sums.sum() / self.counts.sum())


@dataclass(frozen=True)
class Gain:
    """Decrease of the mean error from one surface to another, degrees."""

    value: float
    standard_error: float | None
    """None with fewer than two blocks."""


@dataclass(frozen=True)
class Selection:
    """The iteration that is the result, and why."""

    iteration: int
    errors: dict[int, float]
    """Mean held-out errors by iteration, degrees; 0 is the initial surface."""
    gain: Gain | None = None
    """Gain of the last iteration over the initial surface, where both have been measured."""
    blocks: int = 0
    """Number of held-out blocks."""

    def to_json(self) -> dict[str, Any]:
        """The content of `selection.json`."""
        content: dict[str, Any] = {
            "iteration": self.iteration,
            "heldout_error_deg": self.errors,
        }
        if self.gain is not None:
            content["heldout_gain_deg"] = self.gain.value
            content["heldout_gain_standard_error_deg"] = self.gain.standard_error
            content["heldout_blocks"] = self.blocks
        return content

    def lines(self) -> list[str]:
        """The selection in words, for people."""
        lines = []
        if self.errors:
            errors = ", ".join(f"{error:.3f} at {step}" for step, error in self.errors.items())
            lines.append(
                f"held-out normals, degrees: {errors}; the result is iteration {self.iteration}"
            )
        if self.gain is not None:
            spread = self.gain.standard_error
            uncertainty = "unknown" if spread is None else f"{spread:.4f}"
            lines.append(
                f"gain of the network: {self.gain.value:.4f} degrees, standard error {uncertainty}"
            )
        return lines


def gain(before: BlockErrors, after: BlockErrors) -> Gain:
    """The gain over all pixels, from the paired differences of the same blocks."""
    difference, counts = before.sums - after.sums, before.counts
    blocks, pixels = len(counts), counts.sum()
    value = float(difference.sum() / pixels)
    if blocks < 2:
        return Gain(value, None)
    squares = float(((difference - value * counts) ** 2).sum())
    return Gain(value, sqrt(blocks / (blocks - 1) * squares) / float(pixels))


def is_significant(gain: Gain, error_before: float, settings: SelectionSettings) -> bool:
    """Whether a gain exceeds its uncertainty and the least gain that matters."""
    return (
        gain.standard_error is not None
        and gain.value > settings.significance * gain.standard_error
        and gain.value > settings.min_relative_gain * error_before
    )


def select(errors: Mapping[int, BlockErrors], last: int, settings: SelectionSettings) -> Selection:
    """The result among the last iteration and the initial surface (iteration 0).

    The last iteration is the result unless errors of both are given and its gain is not
    significant.
    """
    means = {step: block_errors.mean for step, block_errors in errors.items()}
    if 0 not in errors or last not in errors:
        return Selection(last, means)
    improvement = gain(errors[0], errors[last])
    better = is_significant(improvement, means[0], settings)
    return Selection(last if better else 0, means, improvement, len(errors[0].counts))
