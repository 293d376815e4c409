"""Loss of the surface at the integrated points."""

from jaxtyping import Float
from torch import Tensor

from pmni.sdf.sdf import SDF
from pmni.training.losses.base import Loss, StepInputs, at_centre, masked_mean


class SurfaceLoss(Loss):
    """Mean |f| at the back-projected integrated distances of the patches' centre pixels."""

    def __call__(self, inputs: StepInputs) -> Float[Tensor, ""]:
        """The term, normalised units."""
        mask = at_centre(inputs.batch.has_distance)
        return surface_loss(self.context.surface, inputs.centre_points, mask)


def surface_loss(
    sdf: SDF, points: Float[Tensor, "N 3"], mask: Float[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Mean |f| at the back-projected integrated distances."""
    return masked_mean(sdf(points).abs(), mask)
