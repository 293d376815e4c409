"""Residual SDF: a fixed grid surface plus a network that corrects it."""

from jaxtyping import Float, Int
from torch import Tensor

from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.network import NeuralSDF


class ResidualSDF:
    """f(x) = surface(x) + correction(x); only the correction is trained."""

    def __init__(self, surface: NarrowBandSDF, correction: NeuralSDF) -> None:
        self.surface, self.correction = surface, correction

    def __call__(
        self, x: Float[Tensor, "N 3"], num_valid: Int[Tensor, ""] | None = None
    ) -> Float[Tensor, " N"]:
        """Signed distances, normalised units."""
        return self.surface(x) + self.correction(x, num_valid)

    def value_and_gradient(
        self, x: Float[Tensor, "N 3"], num_valid: Int[Tensor, ""] | None = None
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
        """Signed distances and their gradients with respect to x."""
        base_value, base_gradient = self.surface.value_and_gradient(x)
        value, gradient = self.correction.value_and_gradient(x, num_valid)
        return base_value + value, base_gradient + gradient
