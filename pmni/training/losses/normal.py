"""Loss of the rendered normals against the measured ones."""

from jaxtyping import Float
from torch import Tensor

from pmni.training.losses.base import Loss, StepInputs, masked_mean


class NormalLoss(Loss):
    """Mean |n_hat - n|^2 (or L1 norm) over the pixels inside the masks."""

    def __call__(self, inputs: StepInputs) -> Float[Tensor, ""]:
        """The term, from the fused kernel where it runs."""
        fused = inputs.fused_pixel_terms
        if fused is not None:
            return fused[0]
        batch, norm = inputs.batch, self.context.settings.normal_norm
        return normal_loss(inputs.rendering.normal, batch.normal, batch.mask, norm)


def normal_loss(
    rendered: Float[Tensor, "*n 3"],
    measured: Float[Tensor, "*n 3"],
    mask: Float[Tensor, "*n"],
    norm: str,
) -> Float[Tensor, ""]:
    """|n_hat - n|^2 or |n_hat - n|_1, both in the camera frame.

    The rendered normal is R^T grad f, so the pose's gradient comes through R and the samples.
    """
    difference = rendered - measured
    per_pixel = (difference**2).sum(-1) if norm == "l2" else difference.abs().sum(-1)
    return masked_mean(per_pixel, mask)
