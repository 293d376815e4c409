"""Regulariser of a refined surface's correction: it is small near the surface."""

from jaxtyping import Float
from torch import Tensor

from pmni.training.losses.base import Loss, LossContext, StepInputs
from pmni.training.rng import Stream


class CorrectionLoss(Loss):
    """Mean square of the network's correction at random points near the initial surface, in cells.

    Applies only where the network corrects a refined surface.
    """

    def __init__(self, context: LossContext) -> None:
        super().__init__(context)
        surface = context.initial_surface
        if surface is None:
            return
        self.spacing = surface.grid.spacing
        distance = context.settings.correction.distance_cells * self.spacing
        self.nodes = surface.grid.positions()[surface.values.abs() < distance]

    @property
    def applies(self) -> bool:
        """Whether there is an initial surface."""
        return self.context.initial_surface is not None

    def __call__(self, inputs: StepInputs) -> Float[Tensor, ""]:
        """The term, squared cells of the initial surface's grid."""
        points, rng = self.context.settings.correction.points, inputs.rng
        node = rng.integers(len(self.nodes), Stream.CORRECTION_NODE, points)
        offset = (rng.uniform(Stream.CORRECTION_OFFSET, points, 3) - 0.5) * self.spacing
        correction = self.context.network(self.nodes[node] + offset)
        return ((correction / self.spacing) ** 2).mean()
