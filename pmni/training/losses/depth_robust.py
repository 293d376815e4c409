"""Scale- and shift-invariant loss of the rendered against the integrated ray distances."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pmni.training.losses.base import TINY, Loss, StepInputs


class RobustDepthLoss(Loss):
    """Mean |a - b| of the two distances, standardised in each view."""

    dynamic_shape = True

    def __call__(self, inputs: StepInputs) -> Float[Tensor, ""]:
        """The term, without unit."""
        batch = inputs.batch
        return robust_depth_loss(
            batch.distance,
            inputs.rendering.distance,
            batch.has_distance,
            batch.view,
            len(self.context.views),
        )


def robust_depth_loss(
    integrated: Float[Tensor, "P h w"],
    rendered: Float[Tensor, "P h w"],
    mask: Float[Tensor, "P h w"],
    view: Int[Tensor, " P"],
    views: int,
) -> Float[Tensor, ""]:
    """Mean of |a - b|, both standardised in each view by median and mean absolute deviation.

    The scale- and shift-invariant term of MiDaS (Ranftl et al., PAMI 2020, eq. 5-6).
    """
    inside = mask > 0
    group = view[:, None, None].expand_as(mask)[inside]
    a = standardise(integrated[inside], group, views)
    b = standardise(rendered[inside], group, views)
    return (a - b).abs().mean() if len(a) else rendered.new_zeros(())


def standardise(
    values: Float[Tensor, " N"], group: Int[Tensor, " N"], groups: int
) -> Float[Tensor, " N"]:
    """(values - median) / mean absolute deviation from it, group by group."""
    centred = values - group_medians(values, group, groups)[group]
    count = torch.bincount(group, minlength=groups).clamp(min=1)
    deviation = values.new_zeros(groups).index_add(0, group, centred.abs()) / count
    return centred / deviation.clamp(min=TINY)[group]


def group_medians(
    values: Float[Tensor, " N"], group: Int[Tensor, " N"], groups: int
) -> Float[Tensor, " groups"]:
    """The (upper) median of each group's values; zero for an empty group."""
    by_value = torch.argsort(values.detach())
    order = by_value[torch.argsort(group[by_value], stable=True)]
    count = torch.bincount(group, minlength=groups)
    middle = (count.cumsum(0) - count + count // 2).clamp(max=max(0, len(values) - 1))
    return torch.where(count > 0, values[order][middle], 0.0)
