"""The objective: all loss terms with a weight, from the registry of losses."""

from torch import Tensor

from pmni.config.extensions import LOSSES
from pmni.config.training import LossWeights
from pmni.training.losses.base import Loss, LossContext, StepInputs


class Objective:
    """The loss terms of a training."""

    def __init__(self, context: LossContext) -> None:
        self.context = context
        self._losses: dict[str, Loss] = {}

    def terms(self, weights: LossWeights, inputs: StepInputs) -> dict[str, Tensor]:
        """The unweighted terms whose weights are not zero and that apply to this training."""
        losses = {name: self._loss(name) for name in weights.active()}
        return {name: loss(inputs) for name, loss in losses.items() if loss.applies}

    def _loss(self, name: str) -> Loss:
        if name not in self._losses:
            self._losses[name] = LOSSES[name](self.context)
        return self._losses[name]
