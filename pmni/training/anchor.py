"""What keeps a corrected surface where it is."""

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.fields.band import BandSDF
from pmni.fields.network import NeuralSDF

REACH = 1.5
"""Cells from the surface within which corrections count."""
POINTS = 4096
"""Drawn in each step."""


class Anchor:
    """Draws points near a grid surface, and measures a correction there."""

    def __init__(self, surface: BandSDF) -> None:
        self.spacing = surface.grid.spacing
        self.near = surface.grid.positions()[surface.values.abs() < REACH * self.spacing]

    def loss(self, correction: NeuralSDF, generator: torch.Generator) -> Float[Tensor, ""]:
        """Mean square of the correction, in cells."""
        device = self.near.device
        node = torch.randint(len(self.near), (POINTS,), generator=generator).to(device)
        shift = (torch.rand(POINTS, 3, generator=generator) - 0.5).to(device) * self.spacing
        return ((correction(self.near[node] + shift) / self.spacing) ** 2).mean()
