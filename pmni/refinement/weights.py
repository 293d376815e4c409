"""What each residual counts, from the usual sizes of the residuals themselves."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.refinement.normal_equations import WeightedResiduals
from pmni.refinement.residuals import Residuals, trust

FINEST_CONTOUR = 0.2
"""Least scale of contour residuals, pixels."""
EXACT_CONTOUR, RIM, MOST_RIM = 0.35, 2.0, 5.0
"""Contour residuals up to so many pixels say that the contours are not jittered; beyond, so many
times the excess is the width of the rim where normals are not trusted, at most so many pixels."""


@dataclass(frozen=True)
class Scales:
    """The usual sizes of residuals, from which the weights follow."""

    normal: float
    """Median length, radians."""
    contour: float
    """Robust standard deviation, pixels."""
    normal_by_view: Float[Tensor, " V"]
    """Median length in each view, radians; pi where nothing is hit."""


def boundary_erosion(offsets: Float[Tensor, " V"], scales: Scales) -> Float[Tensor, " V"]:
    """How many pixels inside each view's contour there may be something else than the object;
    `offsets` in pixels."""
    jittered = RIM * max(scales.contour - EXACT_CONTOUR, 0.0)
    return (offsets.clamp(min=0) + jittered).clamp(max=MOST_RIM)


def measure(normals: Residuals, contours: Residuals, sizes: Float[Tensor, " V"]) -> Scales:
    """The usual sizes of the residuals."""
    lengths = torch.where(normals.valid > 0, normals.lengths(), torch.nan)
    view_jacobian = lower_medians(lengths.view(len(sizes), -1))
    off = (contours.lengths().view(len(sizes), -1) / sizes[:, None]).reshape(-1)
    off = off[contours.valid > 0]
    return Scales(
        normal=float(lengths.nanmedian()),
        contour=max(1.4826 * float(off.median()), FINEST_CONTOUR),
        normal_by_view=view_jacobian.nan_to_num(math.pi),
    )


def lower_medians(values: Float[Tensor, "V P"]) -> Float[Tensor, " V"]:
    """Of each row's numbers; NaN where there are none. As `nanmedian`, whose choice among equals is
    not the same every time on a GPU."""
    middle = (values.isfinite().sum(1) - 1).clamp(min=0) // 2
    return values.sort(dim=1).values.gather(1, middle[:, None])[:, 0]


def weighted_normals(normals: Residuals, scales: Scales, settled: bool) -> WeightedResiduals:
    """Huber weights of 1 up to a few times the usual residual.

    Where the surface is `settled`, what does not fit it shows another part of the object, behind
    whose edge the ray has passed: it counts for nothing, or it would make dents and bumps.
    """
    threshold = min(max(3 * scales.normal, 0.25), 0.8)
    weight = normals.valid * (threshold / normals.lengths().clamp(min=1e-6)).clamp(max=1)
    if settled:
        weight = weight * trust(normals.value)
    return WeightedResiduals(normals, weight.sqrt())


def weighted_distances(
    distances: Residuals, strength: float, sizes: Float[Tensor, " V"], scales: Scales
) -> WeightedResiduals:
    """Huber weights of `strength` for the squares of distances, in pixels."""
    pixel = sizes[:, None].expand(-1, len(distances.valid) // len(sizes)).reshape(-1)
    off = distances.lengths() / pixel
    threshold = min(max(3 * scales.contour, 2.5), 15.0)
    weight = distances.valid * (threshold / off.clamp(min=1e-6)).clamp(max=1) / pixel**2
    return WeightedResiduals(distances, (strength * weight).sqrt())
