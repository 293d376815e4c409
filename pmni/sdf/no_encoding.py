"""No encoding: the network sees the coordinates alone, as in NeuS."""

from jaxtyping import Float, Int
from torch import Tensor

from pmni.config.training import FieldSettings
from pmni.sdf.encoding import Encoding


class NoEncoding(Encoding):
    """No features."""

    def __init__(self, settings: FieldSettings, seed: int) -> None:
        super().__init__()

    def forward(
        self, x: Float[Tensor, "N 3"], active: int, num_valid: Int[Tensor, ""] | None = None
    ) -> Float[Tensor, "N 0"]:
        """An empty feature vector for each point."""
        return x.new_zeros(len(x), 0)
