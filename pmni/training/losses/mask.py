"""Loss of the opacity against the masks."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from pmni.kernels.constants import MIN_OPACITY
from pmni.training.losses.base import Loss, StepInputs


class MaskLoss(Loss):
    """Binary cross-entropy of opacity and mask, mean over all pixels."""

    def __call__(self, inputs: StepInputs) -> Float[Tensor, ""]:
        """The term, from the fused kernel where it runs."""
        fused = inputs.fused_pixel_terms
        return mask_loss(inputs.rendering.opacity, inputs.batch.mask) if fused is None else fused[1]


def mask_loss(opacity: Float[Tensor, "*n"], mask: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of the opacity."""
    return binary_cross_entropy(opacity.clamp(MIN_OPACITY, 1 - MIN_OPACITY), mask)
