"""What keeps a corrected surface where it is."""

from jaxtyping import Float
from torch import Tensor

from pmni.sdf.band import BandSDF
from pmni.sdf.network import NeuralSDF
from pmni.training.draws import Draws, Stream

REACH = 1.5
"""Cells from the surface within which corrections count."""
POINTS = 4096
"""Drawn in each step."""


class Anchor:
    """Draws points near a grid surface, and measures a correction there."""

    def __init__(self, surface: BandSDF) -> None:
        self.spacing = surface.grid.spacing
        self.near = surface.grid.positions()[surface.values.abs() < REACH * self.spacing]

    def loss(self, correction: NeuralSDF, draws: Draws) -> Float[Tensor, ""]:
        """Mean square of the correction, in cells."""
        node = draws.below(len(self.near), Stream.ANCHOR_NODE, POINTS)
        shift = (draws.uniform(Stream.ANCHOR_SHIFT, POINTS, 3) - 0.5) * self.spacing
        return ((correction(self.near[node] + shift) / self.spacing) ** 2).mean()
