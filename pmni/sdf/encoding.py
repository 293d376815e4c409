"""The interface of the encodings of the SDF network's input; `ENCODINGS` registers them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pmni.config.extensions import ENCODINGS
from pmni.config.training import FieldSettings
from pmni.kernels.types import HashGridTensors


class Encoding(nn.Module):
    """Features of points in [0, 1]^3: the base class of all encodings."""

    width: int = 0
    """Number of features."""
    graph_capturable: bool = True
    """Whether its computations can be captured as a CUDA graph."""

    def forward(
        self, x: Float[Tensor, "N 3"], active: int, num_valid: Int[Tensor, ""] | None = None
    ) -> Float[Tensor, "N D"]:
        """Features (N, width).

        Features of levels from `active` on are zero; an encoding without levels ignores it. Those
        of points from `num_valid` on, if that is given, mean nothing.
        """
        raise NotImplementedError

    def backend_on(self, device: torch.device) -> str:
        """Name of the implementation that runs on a device."""
        return "torch"

    def kernel_grid(
        self, device: torch.device, active: int, num_valid: Int[Tensor, ""] | None
    ) -> HashGridTensors | None:
        """The hash grid, where kernels compute it together with the network; else None."""
        return None


def make_encoding(settings: FieldSettings, seed: int) -> Encoding:
    """The encoding that the settings name."""
    encoding: Encoding = ENCODINGS[settings.encoding](settings, seed)
    return encoding
