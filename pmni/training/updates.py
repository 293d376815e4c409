"""Steps of the optimisers that leave everything as it is once a gradient is not finite.

Whether they do is decided on the device: nothing waits for it.
"""

import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pmni.config.training import TrainSettings

MOST_TERMS = 16


def adam(groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Adam:
    """Adam with all of a group in one launch, and learning rates that are on the device."""
    for group in groups:
        group["lr"] = torch.zeros((), device=device)
    return torch.optim.Adam(groups, fused=True, capturable=device.type == "cuda")


class Updates:
    """Adam for the field and for the poses, each with its own limit of the gradient's norm.

    `field` are groups of parameters, each with its learning rate as "base"; `poses` are those whose
    gradients are limited, `scales` are learned at their rate.
    """

    def __init__(
        self,
        settings: TrainSettings,
        field: list[dict[str, Any]],
        poses: list[nn.Parameter],
        scales: list[nn.Parameter],
        device: torch.device,
    ) -> None:
        self.settings = settings
        self.field = adam(field, device)
        self.poses = adam([{"params": [*poses, *scales]}], device)
        self.limited = [p for group in self.field.param_groups for p in group["params"]], poses
        self.failed: Int[Tensor, ""] = torch.tensor(-1, device=device)
        """The first step whose gradient was not finite."""
        self.finite = torch.ones(MOST_TERMS, dtype=torch.bool, device=device)
        """Which of the terms were, then."""

    def forget_gradients(self) -> None:
        """Before a backward pass."""
        self.field.zero_grad(set_to_none=True)
        self.poses.zero_grad(set_to_none=True)

    @torch.no_grad()
    def make(
        self,
        step: Int[Tensor, ""],
        terms: list[Float[Tensor, ""]],
        factor: Float[Tensor, ""],
        pose_rate: Float[Tensor, ""],
        moving: Float[Tensor, ""],
    ) -> None:
        """A step of both, if all gradients are finite and always were.

        `terms` are those of the loss; `factor` is that of the field's learning rates; poses move
        where `moving` is 1.
        """
        norms = [_norm(parameters, step.device) for parameters in self.limited]
        broken = ~torch.isfinite(norms[0] + norms[1])
        now = broken & (self.failed < 0)
        finite = self.finite[: len(terms)]
        finite.copy_(torch.where(now, torch.isfinite(torch.stack(terms)), finite))
        self.failed.copy_(torch.where(now, step, self.failed))
        still = (self.failed >= 0).float()
        for group in self.field.param_groups:
            torch.mul(factor, group["base"], out=group["lr"])
        for group in self.poses.param_groups:
            group["lr"].copy_(pose_rate)
        limits = self.settings.clip_field, self.settings.clip_poses
        stays = still, torch.maximum(still, 1 - moving)
        for optimiser, norm, limit, stay in zip(
            (self.field, self.poses), norms, limits, stays, strict=True
        ):
            advance(optimiser, found_inf=stay, grad_scale=(norm / limit).clamp(min=1))

    def state(self) -> dict[str, Any]:
        """What steps depend on."""
        return {"field": self.field.state_dict(), "poses": self.poses.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.field.load_state_dict(state["field"])
        self.poses.load_state_dict(state["poses"])
        self.failed.fill_(-1)


def _norm(parameters: list[nn.Parameter], device: torch.device) -> Float[Tensor, ""]:
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros((), device=device)
    return nn.utils.get_total_norm(gradients)


def advance(optimiser: torch.optim.Adam, **told: Tensor) -> None:
    """A step of what `adam` has made, told what fused optimisers are told by a scaler of gradients:
    by what to divide them (grad_scale), and whether to leave the step out (found_inf: 1)."""
    for name, value in told.items():
        setattr(optimiser, name, value)
    with warnings.catch_warnings():
        # Steps that are not in a graph, of an optimiser that can be in one, are what we want.
        warnings.filterwarnings("ignore", message="This instance was constructed with capturable")
        optimiser.step()
    for name in told:
        delattr(optimiser, name)
