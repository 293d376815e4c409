"""Settings of `integrate`."""

from typing import ClassVar, Literal

from pydantic import Field

from pmni.config.base import Settings


class BilateralSettings(Settings):
    """Bilateral normal integration by iteratively re-weighted least squares."""

    sharpness: float = Field(2.5, ge=0)
    """Sharpness k of the bilateral weights: the larger, the more depth discontinuities; 0 allows
    none (plain least squares)."""

    max_iterations: int = Field(100, ge=1)
    """Largest number of re-weighting iterations."""

    tolerance: float = Field(5e-4, gt=0)
    """Convergence: mean change of the log-depth in an iteration, as a fraction of its mean
    deviation from the median."""

    min_cosine: float = Field(0.02, gt=0, lt=1)
    """Smallest product of normal and viewing ray: more grazing normals are clamped to it."""

    max_bend: float = Field(0.9, gt=0, lt=1)
    """Largest relative change of n . m within half a pixel."""

    discontinuity: float = Field(0.8, gt=0)
    """Scale s of the Geman-McClure weight: the change across an edge, in pixels along the normal,
    from which it counts as a depth discontinuity; a continuous surface has less than 1."""

    undamped_iterations: int = Field(6, ge=0)
    """Number of iterations before new weights are averaged with the previous ones, which ends
    oscillations."""


class SolverSettings(Settings):
    """The linear solver of each re-weighting iteration."""

    residual_reduction: float = Field(0.03, gt=0, lt=1)
    """Factor by which a solve reduces the residual that it starts from; the next weights change
    more than the rest."""

    reuse_steps: int = Field(10, ge=1)
    """Largest number of conjugate gradient steps with the factorisation of an earlier system before
    a new one is computed."""


class DownsamplingSettings(Settings):
    """Integration of large images at a lower resolution."""

    max_pixels: int = Field(15_000, ge=100)
    """Largest number of mask pixels of a view; larger views are downsampled. Initial poses, which
    need the depths, gain nothing by more, and the time grows with the pixels."""

    min_cosine: float = Field(0.1, gt=0, lt=1)
    """Smallest product of normal and viewing ray of the tangent planes that interpolate depth."""

    max_distance: float = Field(1.5, gt=0)
    """Distance from the nearest integrated pixel beyond which the depth remains unknown,
    downsampled pixels."""


class IntegrateSettings(Settings):
    """How normals become ray distances."""

    deprecated_names: ClassVar = {
        "k": "bilateral.sharpness",
        "iterations": "bilateral.max_iterations",
        "tolerance": "bilateral.tolerance",
        "most_pixels": "downsampling.max_pixels",
    }

    method: Literal["bilateral", "dataset"] = "bilateral"
    """Bilateral normal integration, or the ray distances that came with the dataset."""

    bilateral: BilateralSettings = BilateralSettings()
    """Bilateral normal integration."""

    solver: SolverSettings = SolverSettings()
    """Linear solver of bilateral normal integration."""

    downsampling: DownsamplingSettings = DownsamplingSettings()
    """The resolution at which views are integrated."""
