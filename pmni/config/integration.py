"""Settings of `integrate`."""

from typing import Literal

from pydantic import Field

from pmni.config.base import Settings


class IntegrateSettings(Settings):
    """How normals become ray distances."""

    method: Literal["bilateral", "dataset"] = "bilateral"
    """Bilateral normal integration, or the ray distances that came with the dataset."""

    k: float = Field(2.5, ge=0)
    """Sharpness of the bilateral weights: the larger, the more depth jumps; 0 allows none."""

    iterations: int = Field(100, ge=1)
    """Most re-weighting iterations."""

    tolerance: float = Field(5e-4, gt=0)
    """Stop when an iteration changes the log-depth, on average, by less than this fraction of its
    mean deviation from the median."""

    most_pixels: int = Field(15_000, ge=100)
    """Inside a mask. Larger images are integrated at a lower resolution: initial poses, which need
    the depths, gain nothing by more, and the time grows with the pixels."""
