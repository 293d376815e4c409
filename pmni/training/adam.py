"""Adam on the device: rates, limits and whether to step at all are tensors.

`torch.optim.Adam` with `fused=True` does the same, and takes two seconds to import.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

BETAS, EPSILON = (0.9, 0.999), 1e-8


class Adam:
    """Adam (Kingma and Ba, ICLR 2015) of parameters with one learning rate."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.means = [torch.zeros_like(p, requires_grad=False) for p in parameters]
        self.squares = [torch.zeros_like(p, requires_grad=False) for p in parameters]
        self.steps = [torch.zeros((), device=p.device) for p in parameters]

    def forget_gradients(self) -> None:
        """Before a backward pass."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(
        self,
        rate: Float[Tensor, ""],
        divisor: Float[Tensor, ""] | None = None,
        stay: Float[Tensor, ""] | None = None,
    ) -> None:
        """A step by the gradients over the `divisor`, or none at all if `stay` is 1."""
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
            lr=rate,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
            found_inf=stay,
        )
        if stay is not None:
            torch._foreach_sub_(steps, [stay] * len(steps))

    def state(self) -> dict[str, Any]:
        """What steps depend on."""
        return {"means": self.means, "squares": self.squares, "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name, values in self.state().items():
            for mine, its in zip(values, state[name], strict=True):
                mine.copy_(its)
