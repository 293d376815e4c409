"""The interface of every surface model: a signed distance function on the normalised world."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class SDF(Protocol):
    """A signed distance function on [-1, 1]^3, positive outside; float32 in, float32 out."""

    def __call__(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Signed distances, normalised units."""
        ...

    def value_and_gradient(
        self, x: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
        """Signed distances and their gradients with respect to x."""
        ...


@runtime_checkable
class SampledSDF(SDF, Protocol):
    """A signed distance function that may evaluate the first `num_valid` points alone; the others
    are padding, whose values mean nothing."""

    def __call__(
        self, x: Float[Tensor, "N 3"], num_valid: Int[Tensor, ""] | None = None
    ) -> Float[Tensor, " N"]:
        """Signed distances, normalised units."""
        ...

    def value_and_gradient(
        self, x: Float[Tensor, "N 3"], num_valid: Int[Tensor, ""] | None = None
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
        """Signed distances and their gradients with respect to x."""
        ...
