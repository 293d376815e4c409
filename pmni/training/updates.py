"""Steps of the optimisers that leave everything as it is once a gradient is not finite.

Whether they do is decided on the device: nothing waits for it.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pmni import kernels
from pmni.config.training import TrainSettings
from pmni.training.adam import Adam

MOST_TERMS = 16


class Updates:
    """Adam for the field and for the poses, each with its own limit of the gradient's norm.

    `network` and `grid` are the field's parameters, each with its learning rate. Those of `poses`
    are limited, `scales` are not; both are learned at the poses' rate.
    """

    def __init__(
        self,
        settings: TrainSettings,
        network: list[nn.Parameter],
        grid: list[nn.Parameter],
        poses: list[nn.Parameter],
        scales: list[nn.Parameter],
        device: torch.device,
    ) -> None:
        self.network, self.grid, self.poses = Adam(network), Adam(grid), Adam([*poses, *scales])
        self.limited = [*network, *grid], poses
        self.rates = (
            settings.optimizer.learning_rate,
            settings.optimizer.encoding_learning_rate or settings.optimizer.learning_rate,
        )
        self.limits = settings.optimizer.clip_network, settings.optimizer.clip_poses
        self.failed: Int[Tensor, ""] = torch.tensor(-1, device=device)
        """The first step whose gradient was not finite."""
        self.finite: Bool[Tensor, "n"] = torch.ones(MOST_TERMS, dtype=torch.bool, device=device)
        """Which of the terms were, then."""

    def forget_gradients(self) -> None:
        """Before a backward pass."""
        for optimiser in (self.network, self.grid, self.poses):
            optimiser.forget_gradients()

    @torch.no_grad()
    def make(
        self, step: Int[Tensor, ""], terms: Float[Tensor, "T"], now: Float[Tensor, "3"]
    ) -> None:
        """A step of all, if the gradients are finite and always were.

        `terms` are those of the loss; `now` is the factor of the field's learning rates, the poses'
        learning rate, and 1 if they move.
        """
        norms = torch.stack([_norm(parameters, step.device) for parameters in self.limited])
        given = (step, terms, norms, now, self.failed, self.finite, self.rates, self.limits)
        if kernels.chosen(step.device):
            from pmni.kernels.updates import decided as by_kernel

            rates, divisors, stays = by_kernel(*given)
        else:
            rates, divisors, stays = decided(*given)
        self.network.step(rates[0], divisors[0], stays[0])
        self.grid.step(rates[1], divisors[0], stays[0])
        self.poses.step(rates[2], divisors[1], stays[1])

    def state(self) -> dict[str, Any]:
        """What steps depend on."""
        return {name: getattr(self, name).state() for name in ("network", "grid", "poses")}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name, its in state.items():
            getattr(self, name).restore(its)
        self.failed.fill_(-1)


def decided(
    step: Int[Tensor, ""],
    terms: Float[Tensor, "T"],
    norms: Float[Tensor, "2"],
    now: Float[Tensor, "3"],
    failed: Int[Tensor, ""],
    finite: Bool[Tensor, "n"],
    rates: tuple[float, float],
    limits: tuple[float, float],
) -> tuple[Float[Tensor, "3"], Float[Tensor, "2"], Float[Tensor, "2"]]:
    """Learning rates of network, grid and poses; of field and poses, by what gradients are divided
    and whether all stay as they are (1). `failed` and `finite` are kept up to date."""
    factor, pose_rate, moving = now.unbind()
    first = ~torch.isfinite(norms.sum()) & (failed < 0)
    known = finite[: len(terms)]
    known.copy_(torch.where(first, torch.isfinite(terms), known))
    failed.copy_(torch.where(first, step, failed))
    still = (failed >= 0).float()
    divisors = [(norm / limit).clamp(min=1) for norm, limit in zip(norms, limits, strict=True)]
    return (
        torch.stack([factor * rates[0], factor * rates[1], pose_rate]),
        torch.stack(divisors),
        torch.stack([still, torch.maximum(still, 1 - moving)]),
    )


def _norm(parameters: list[nn.Parameter], device: torch.device) -> Float[Tensor, ""]:
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros((), device=device)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
