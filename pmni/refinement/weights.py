"""Robust weights of residuals, from the usual sizes of the residuals themselves."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.refinement import ResidualSettings, RobustWeightSettings
from pmni.refinement.normal_equations import WeightedResiduals
from pmni.refinement.residuals import Residuals, occlusion_weight

GAUSSIAN_MAD = 1.4826
"""Standard deviation of a Gaussian over its median absolute deviation."""


@dataclass(frozen=True)
class Scales:
    """The usual sizes of residuals, from which the weights follow."""

    normal: float
    """Median length of normals' residuals, radians."""
    contour: float
    """Robust standard deviation of contours' residuals, pixels."""
    normal_by_view: Float[Tensor, " V"]
    """Median length of normals' residuals in each view, radians; pi where nothing is hit."""


def eroded_boundary(
    offsets: Float[Tensor, " V"], scales: Scales, settings: RobustWeightSettings
) -> Float[Tensor, " V"]:
    """Width inside each view's contour, pixels, that may show something else than the object.

    `offsets` are the contours' offsets, pixels.
    """
    jitter = settings.erosion_factor * max(scales.contour - settings.smooth_contour_px, 0.0)
    return (offsets.clamp(min=0) + jitter).clamp(max=settings.max_erosion_px)


def measure_scales(
    normals: Residuals,
    contours: Residuals,
    footprint: Float[Tensor, " V"],
    settings: RobustWeightSettings,
) -> Scales:
    """The usual sizes of the residuals; `footprint` is a pixel's width at the object."""
    lengths = torch.where(normals.valid > 0, normals.lengths(), torch.nan)
    by_view = lower_medians(lengths.view(len(footprint), -1))
    return Scales(
        normal=float(lengths.nanmedian()),
        contour=distance_scale(contours, footprint, settings),
        normal_by_view=by_view.nan_to_num(math.pi),
    )


def distance_scale(
    distances: Residuals, footprint: Float[Tensor, " V"], settings: RobustWeightSettings
) -> float:
    """Robust standard deviation of distances, pixels; at least `min_contour_scale_px`."""
    off = (distances.lengths().view(len(footprint), -1) / footprint[:, None]).reshape(-1)
    off = off[distances.valid > 0]
    if len(off) == 0:
        return settings.min_contour_scale_px
    return max(GAUSSIAN_MAD * float(off.median()), settings.min_contour_scale_px)


def lower_medians(values: Float[Tensor, "V P"]) -> Float[Tensor, " V"]:
    """Medians of each row's numbers (the lower of two), NaN where there are none.

    As `nanmedian`, whose choice among equals is not the same every time on a GPU.
    """
    middle = (values.isfinite().sum(1) - 1).clamp(min=0) // 2
    return values.sort(dim=1).values.gather(1, middle[:, None])[:, 0]


def weight_normals(
    normals: Residuals,
    scales: Scales,
    converged: bool,
    settings: RobustWeightSettings,
    residuals: ResidualSettings,
) -> WeightedResiduals:
    """Huber weights of 1 up to a few times the usual residual.

    Where the surface has `converged`, a normal that does not fit shows another part of the object,
    behind whose edge the ray has passed: it loses its weight, or it would make dents and bumps.
    """
    threshold = settings.normal_factor * scales.normal
    threshold = min(max(threshold, settings.normal_min), settings.normal_max)
    weight = normals.valid * (threshold / normals.lengths().clamp(min=1e-6)).clamp(max=1)
    if converged:
        weight = weight * occlusion_weight(normals.value, residuals)
    return WeightedResiduals(normals, weight.sqrt())


def weight_distances(
    distances: Residuals,
    strength: float,
    footprint: Float[Tensor, " V"],
    spread: float,
    settings: RobustWeightSettings,
) -> WeightedResiduals:
    """Huber weights of `strength` for the squares of distances, in pixels.

    `spread` is their usual size (`distance_scale`).
    """
    pixel = footprint[:, None].expand(-1, len(distances.valid) // len(footprint)).reshape(-1)
    off = distances.lengths() / pixel
    threshold = settings.contour_factor * spread
    threshold = min(max(threshold, settings.contour_min_px), settings.contour_max_px)
    weight = distances.valid * (threshold / off.clamp(min=1e-6)).clamp(max=1) / pixel**2
    return WeightedResiduals(distances, (strength * weight).sqrt())
