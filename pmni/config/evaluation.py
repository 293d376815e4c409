"""Settings of `evaluate`."""

from typing import Literal

from pydantic import Field

from pmni.config.base import Settings


class ICPSettings(Settings):
    """Alignment of the mesh with the ground truth by scaled, trimmed, point-to-plane ICP."""

    points: int = Field(30_000, ge=10)
    """Most first hits of the rays on the mesh that ICP aligns, drawn at random."""

    iterations: int = Field(100, ge=1)
    """Most iterations."""

    inliers: float = Field(0.9, gt=0, le=1)
    """Fraction of the pairs, those with the smallest distances, that each iteration fits."""

    tolerance: float = Field(1e-7, gt=0)
    """ICP ends when no component of a step (radians, ground-truth radii, log scale) is larger."""

    max_step: float = Field(1.0, gt=0)
    """Largest component of a step (radians, ground-truth radii, log scale) before ICP counts as
    diverged."""

    start_points: int = Field(5_000, ge=1)
    """Most vertices of the mesh by which the better of the two camera alignments is chosen as the
    start."""

    start_inliers: float = Field(0.8, gt=0, le=1)
    """Fraction of these vertices, those nearest to the ground truth, whose mean distance counts."""


class EvaluateSettings(Settings):
    """How a reconstruction is compared with the ground truth."""

    alignment: Literal["none", "cameras", "icp"] = "icp"
    """Move the reconstruction before measuring: not at all, by its cameras, or by ICP as well."""

    icp: ICPSettings = ICPSettings()
    """How ICP aligns the surfaces."""

    collinearity: float = Field(0.05, ge=0, le=1)
    """Ratio of the second to the first extent (singular value) of the camera centres below which
    they count as collinear, so that the cameras' rotations are aligned instead of their centres."""

    thresholds: tuple[float, ...] = (0.5, 1.0)
    """F-score thresholds, mm."""

    observed_spacings: float = Field(3.0, gt=0)
    """Vertices count as observed within this many median distances between neighbouring
    ground-truth points from a first hit on the mesh."""

    spacing_points: int = Field(2_000, ge=2)
    """Most ground-truth points in the median of `observed_spacings`."""

    exclude_views: tuple[str, ...] = ()
    """Held-out views: reported apart in `mae_heldout_deg`."""

    seed: int = Field(0, ge=0)
    """Seed of the random subsets of points."""
