"""Chamfer distance between the integrated points of neighbouring views."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pmni.training.losses.base import Loss, StepInputs, at_centre


class ChamferLoss(Loss):
    """Mean distance between the back-projected points of each view and those of the next."""

    dynamic_shape = True

    def __call__(self, inputs: StepInputs) -> Float[Tensor, ""]:
        """The term, normalised units."""
        mask = at_centre(inputs.batch.has_distance)
        return chamfer_loss(inputs.centre_points, inputs.batch.view, len(self.context.views), mask)


def chamfer_loss(
    points: Float[Tensor, "N 3"],
    view: Int[Tensor, " N"],
    views: int,
    mask: Float[Tensor, " N"],
) -> Float[Tensor, ""]:
    """Mean distance of each point to the nearest point of the next view (cyclic), and back.

    Points of views without a partner in the batch count for nothing.
    """
    distance = torch.cdist(points, points)
    inside = mask > 0
    total, count = points.new_zeros(()), points.new_zeros(())
    for shift in (1, -1):
        partner = (view[:, None] + shift) % views == view[None, :]
        allowed = partner & inside[None, :] & inside[:, None]
        nearest = distance.masked_fill(~allowed, torch.inf).min(dim=1).values
        has_partner = allowed.any(dim=1)
        total = total + torch.where(has_partner, nearest, 0.0).sum()
        count = count + has_partner.sum()
    return total / count.clamp(min=1)
