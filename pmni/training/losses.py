"""The terms of the loss. Masks are 0 or 1; every mean is over the pixels or samples it names."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pmni import kernels

TINY = 1e-9
LEAST_OPACITY = 1e-3
"""Opacities count as between this and 1 minus this."""


def masked_mean(values: Float[Tensor, "*n"], mask: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """sum(values * mask) / sum(mask); zero when the mask is empty."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def normal_loss(
    rendered: Float[Tensor, "*n 3"],
    given: Float[Tensor, "*n 3"],
    mask: Float[Tensor, "*n"],
    norm: str,
) -> Float[Tensor, ""]:
    """|n_hat - n|^2 or |n_hat - n|_1, both in the camera frame.

    The rendered normal is R^T grad f, so the pose's gradient comes through R and the samples.
    """
    difference = rendered - given
    per_pixel = (difference**2).sum(-1) if norm == "l2" else difference.abs().sum(-1)
    return masked_mean(per_pixel, mask)


def pixel_terms(
    normal: Float[Tensor, "*n 3"],
    opacity: Float[Tensor, "*n"],
    eikonal_residual: Float[Tensor, "*n"],
    intervals: Int[Tensor, ""],
    given: Float[Tensor, "*n 3"],
    mask: Float[Tensor, "*n"],
    norm: str,
) -> Float[Tensor, "3"]:
    """The losses of normals, mask and slopes."""
    if kernels.chosen(mask.device) and normal.dtype == torch.float32:
        from pmni.kernels.pixel_terms import pixel_terms as by_kernels

        return by_kernels(normal, opacity, eikonal_residual, intervals, given, mask, norm)
    return torch.stack(
        [
            normal_loss(normal, given, mask, norm),
            mask_loss(opacity, mask),
            eikonal_loss(eikonal_residual, intervals),
        ]
    )


def mask_loss(opacity: Float[Tensor, "*n"], mask: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of the opacity."""
    return torch.nn.functional.binary_cross_entropy(
        opacity.clamp(LEAST_OPACITY, 1 - LEAST_OPACITY), mask
    )


def eikonal_loss(residual: Float[Tensor, "*n"], intervals: Int[Tensor, ""]) -> Float[Tensor, ""]:
    """Mean of (|grad f| - 1)^2 over all intervals, from its sums over those of each ray."""
    return residual.sum() / intervals.clamp(min=1)


def closed_form_scales(
    integrated: Float[Tensor, "P h w"],
    rendered: Float[Tensor, "P h w"],
    mask: Float[Tensor, "P h w"],
    view: Int[Tensor, "P"],
    views: int,
) -> Float[Tensor, "V"]:
    """alpha = <z_int, z_hat> / <z_int, z_int> of each view (PMNI, eq. 13, with its erratum)."""
    numerator = rendered.new_zeros(views)
    denominator = rendered.new_zeros(views)
    numerator = numerator.index_add(0, view, (integrated * rendered * mask).sum((1, 2)))
    denominator = denominator.index_add(0, view, (integrated**2 * mask).sum((1, 2)))
    return numerator / denominator.clamp(min=TINY)


def depth_loss(
    integrated: Float[Tensor, "P h w"],
    rendered: Float[Tensor, "P h w"],
    mask: Float[Tensor, "P h w"],
    scale: Float[Tensor, "P"],
) -> Float[Tensor, ""]:
    """Mean of |alpha z_int - z_hat|, normalised units."""
    return masked_mean((scale[:, None, None] * integrated - rendered).abs(), mask)


def robust_depth_loss(
    integrated: Float[Tensor, "P h w"],
    rendered: Float[Tensor, "P h w"],
    mask: Float[Tensor, "P h w"],
    view: Int[Tensor, "P"],
    views: int,
) -> Float[Tensor, ""]:
    """Mean of |a - b|, both standardised in each view by median and mean absolute deviation.

    The scale- and shift-invariant term of MiDaS (Ranftl et al., PAMI 2020, eq. 5-6).
    """
    inside = mask > 0
    owner = view[:, None, None].expand_as(mask)[inside]
    a = standardise(integrated[inside], owner, views)
    b = standardise(rendered[inside], owner, views)
    return (a - b).abs().mean() if len(a) else rendered.new_zeros(())


def standardise(
    values: Float[Tensor, "N"], group: Int[Tensor, "N"], groups: int
) -> Float[Tensor, "N"]:
    """(values - median) / mean absolute deviation from it, group by group."""
    centred = values - group_medians(values, group, groups)[group]
    count = torch.bincount(group, minlength=groups).clamp(min=1)
    deviation = values.new_zeros(groups).index_add(0, group, centred.abs()) / count
    return centred / deviation.clamp(min=TINY)[group]


def group_medians(
    values: Float[Tensor, "N"], group: Int[Tensor, "N"], groups: int
) -> Float[Tensor, "groups"]:
    """The (upper) median of each group's values; zero for an empty group."""
    by_value = torch.argsort(values.detach())
    order = by_value[torch.argsort(group[by_value], stable=True)]
    count = torch.bincount(group, minlength=groups)
    middle = (count.cumsum(0) - count + count // 2).clamp(max=max(0, len(values) - 1))
    return torch.where(count > 0, values[order][middle], 0.0)
