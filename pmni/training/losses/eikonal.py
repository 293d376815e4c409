"""The eikonal loss."""

from jaxtyping import Float, Int
from torch import Tensor

from pmni.training.losses.base import Loss, StepInputs


class EikonalLoss(Loss):
    """Mean (|grad f| - 1)^2 over all samples along the rays."""

    def __call__(self, inputs: StepInputs) -> Float[Tensor, ""]:
        """The term, from the fused kernel where it runs."""
        fused, rendering = inputs.fused_pixel_terms, inputs.rendering
        if fused is not None:
            return fused[2]
        return eikonal_loss(rendering.eikonal_residual, rendering.intervals)


def eikonal_loss(residual: Float[Tensor, "*n"], intervals: Int[Tensor, ""]) -> Float[Tensor, ""]:
    """Mean of (|grad f| - 1)^2 over all intervals, from the sums over each ray."""
    return residual.sum() / intervals.clamp(min=1)
