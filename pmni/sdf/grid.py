"""The dense-grid SDF: values at the nodes of a regular grid, trilinear in between."""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample


class GridSDF:
    """f on [-1, 1]^3 from node values (n, n, n), indexed x, y, z; constant beyond the box."""

    def __init__(self, values: Float[Tensor, "n n n"]) -> None:
        self.values = values

    def __call__(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Interpolated values."""
        return self._sample(self.values[None], x)[:, 0]

    def value_and_gradient(
        self, x: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
        """Values, and central differences of the nodes interpolated at x (continuous)."""
        return self(x), self._sample(self.node_gradients, x)

    @cached_property
    def node_gradients(self) -> Float[Tensor, "3 n n n"]:
        """Central differences at the nodes."""
        spacing = 2 / (len(self.values) - 1)
        return torch.stack(torch.gradient(self.values, spacing=spacing))

    @staticmethod
    def _sample(
        channels: Float[Tensor, "C n n n"], x: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N C"]:
        # grid_sample wants the coordinate of the last axis first.
        coordinates = x.flip(-1).view(1, -1, 1, 1, 3)
        sampled = grid_sample(
            channels[None], coordinates, padding_mode="border", align_corners=True
        )
        return sampled[0, :, :, 0, 0].T


def grid_nodes(n: int, device: torch.device) -> Float[Tensor, "n n n 3"]:
    """The positions of the nodes of an n^3 grid on [-1, 1]^3."""
    axis = torch.linspace(-1, 1, n, device=device)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
