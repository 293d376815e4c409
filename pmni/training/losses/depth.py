"""Loss of the rendered against the integrated ray distances."""

from jaxtyping import Float
from torch import Tensor

from pmni.training.losses.base import Loss, StepInputs, masked_mean


class DepthLoss(Loss):
    """Mean |alpha z_int - z_hat| with a scale alpha of each view (PMNI, eq. 13)."""

    def __call__(self, inputs: StepInputs) -> Float[Tensor, ""]:
        """The term, normalised units."""
        batch = inputs.batch
        return depth_loss(
            batch.distance, inputs.rendering.distance, batch.has_distance, inputs.depth_scales
        )


def depth_loss(
    integrated: Float[Tensor, "P h w"],
    rendered: Float[Tensor, "P h w"],
    mask: Float[Tensor, "P h w"],
    scale: Float[Tensor, " P"],
) -> Float[Tensor, ""]:
    """Mean of |alpha z_int - z_hat|, normalised units."""
    return masked_mean((scale[:, None, None] * integrated - rendered).abs(), mask)
