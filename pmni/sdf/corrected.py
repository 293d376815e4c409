"""A grid surface and a network that corrects it."""

from jaxtyping import Float, Int
from torch import Tensor

from pmni.sdf.band import BandSDF
from pmni.sdf.network import NeuralSDF


class CorrectedSDF:
    """f(x) = surface(x) + correction(x); the surface stays as it is."""

    def __init__(self, surface: BandSDF, correction: NeuralSDF) -> None:
        self.surface, self.correction = surface, correction

    def __call__(
        self, x: Float[Tensor, "N 3"], real: Int[Tensor, ""] | None = None
    ) -> Float[Tensor, "N"]:
        """The sum of both values."""
        return self.surface(x) + self.correction(x, real)

    def value_and_gradient(
        self, x: Float[Tensor, "N 3"], real: Int[Tensor, ""] | None = None
    ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N 3"]]:
        """The sums of both values and of both gradients."""
        value, gradient = self.surface.value_and_gradient(x)
        more, slope = self.correction.value_and_gradient(x, real)
        return value + more, gradient + slope
