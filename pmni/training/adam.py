"""Adam whose learning rate, gradient scale and step guard are tensors on the device.

`torch.optim.Adam(fused=True)` calls the same kernel, but building one imports torch._dynamo (3 s)
and each of its steps takes five times as long on the host (260 instead of 50 us, measured).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pmni.config.training import OptimizerSettings


class Adam:
    """Adam (Kingma and Ba, ICLR 2015) of parameters with one learning rate."""

    def __init__(self, parameters: list[nn.Parameter], settings: OptimizerSettings) -> None:
        self.parameters, self.settings = parameters, settings
        self.means = [torch.zeros_like(p, requires_grad=False) for p in parameters]
        self.squares = [torch.zeros_like(p, requires_grad=False) for p in parameters]
        self.steps = [torch.zeros((), device=p.device) for p in parameters]

    def zero_grad(self) -> None:
        """Drop all gradients, before a backward pass."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(
        self,
        learning_rate: Float[Tensor, ""],
        grad_scale: Float[Tensor, ""] | None = None,
        found_inf: Float[Tensor, ""] | None = None,
    ) -> None:
        """A step by the gradients divided by `grad_scale`; none at all if `found_inf` is 1."""
        chosen = [k for k, parameter in enumerate(self.parameters) if parameter.grad is not None]
        if not chosen:
            return
        parameters, means, squares, steps = (
            [values[k] for k in chosen]
            for values in (self.parameters, self.means, self.squares, self.steps)
        )
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            means,
            squares,
            [],
            steps,
            lr=learning_rate,
            beta1=self.settings.betas[0],
            beta2=self.settings.betas[1],
            weight_decay=0.0,
            eps=self.settings.epsilon,
            amsgrad=False,
            maximize=False,
            grad_scale=grad_scale,
            found_inf=found_inf,
        )
        if found_inf is not None:
            torch._foreach_sub_(steps, [found_inf] * len(steps))

    def state(self) -> dict[str, Any]:
        """Moments and step counts, for the resumable state."""
        return {"means": self.means, "squares": self.squares, "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        for name, tensors in self.state().items():
            for tensor, saved in zip(tensors, state[name], strict=True):
                tensor.copy_(saved)
