"""Settings of `evaluate`."""

from typing import Literal

from pydantic import Field

from pmni.config.base import Settings


class EvaluateSettings(Settings):
    """How a reconstruction is compared with the truth."""

    alignment: Literal["none", "cameras", "icp"] = "icp"
    """Move the reconstruction before measuring: not at all, by its cameras, or by ICP as well."""

    thresholds: tuple[float, ...] = (0.5, 1.0)
    """F-score thresholds, mm."""

    exclude_views: tuple[str, ...] = ()
    """Held-out views: reported apart in `mae_heldout_deg`."""

    seed: int = Field(0, ge=0)
    """Seed of the subset of points that ICP uses."""
