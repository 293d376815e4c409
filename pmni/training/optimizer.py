"""Guarded optimiser steps: once a gradient is not finite, everything stays as it is.

The decision is made on the device: the host does not wait for it.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pmni import kernels
from pmni.config.extensions import LOSSES
from pmni.config.training import OptimizerSettings
from pmni.training.adam import Adam


class Optimizer:
    """Adam for network, encoding and poses, with gradient clipping and a step guard.

    Gradients of `network` and `encoding` are clipped together, those of `poses` apart; those of the
    depth `scales` are not clipped. Scales have the learning rate of the poses.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        network: list[nn.Parameter],
        encoding: list[nn.Parameter],
        poses: list[nn.Parameter],
        scales: list[nn.Parameter],
        device: torch.device,
    ) -> None:
        self.network, self.encoding = Adam(network, settings), Adam(encoding, settings)
        self.poses = Adam([*poses, *scales], settings)
        self.clipped = [*network, *encoding], poses
        network_rate = settings.learning_rate
        self.learning_rates = network_rate, settings.encoding_learning_rate or network_rate
        self.max_norms = settings.clip_network, settings.clip_poses
        self.failed_step: Int[Tensor, ""] = torch.tensor(-1, device=device)
        """The first step whose gradient was not finite; -1 if there is none."""
        self.finite_terms: Bool[Tensor, " n"] = torch.ones(
            len(LOSSES), dtype=torch.bool, device=device
        )
        """Which loss terms were finite in that step, in their order."""

    def zero_grad(self) -> None:
        """Drop all gradients, before a backward pass."""
        for optimizer in (self.network, self.encoding, self.poses):
            optimizer.zero_grad()

    @torch.no_grad()
    def step(
        self, step: Int[Tensor, ""], terms: Float[Tensor, " T"], schedule: Float[Tensor, "3"]
    ) -> None:
        """A step of all parameters, if all gradients are finite and have been so far.

        `terms` are the loss terms; `schedule` is the factor of the learning rates of network and
        encoding, the learning rate of the poses, and 1 if poses move.
        """
        norms = torch.stack([_gradient_norm(group, step.device) for group in self.clipped])
        inputs = (
            *(step, terms, norms, schedule, self.failed_step, self.finite_terms),
            *(self.learning_rates, self.max_norms),
        )
        if kernels.use_triton(step.device):
            from pmni.kernels.step_guard import step_guard as by_kernel

            rates, grad_scales, found_inf = by_kernel(*inputs)
        else:
            rates, grad_scales, found_inf = step_guard(*inputs)
        self.network.step(rates[0], grad_scales[0], found_inf[0])
        self.encoding.step(rates[1], grad_scales[0], found_inf[0])
        self.poses.step(rates[2], grad_scales[1], found_inf[1])

    def state(self) -> dict[str, Any]:
        """The optimiser's part of the resumable state."""
        return {name: getattr(self, name).state() for name in ("network", "encoding", "poses")}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        for name, saved in state.items():
            getattr(self, name).restore(saved)
        self.failed_step.fill_(-1)


def step_guard(
    step: Int[Tensor, ""],
    terms: Float[Tensor, " T"],
    norms: Float[Tensor, "2"],
    schedule: Float[Tensor, "3"],
    failed_step: Int[Tensor, ""],
    finite_terms: Bool[Tensor, " n"],
    learning_rates: tuple[float, float],
    max_norms: tuple[float, float],
) -> tuple[Float[Tensor, "3"], Float[Tensor, "2"], Float[Tensor, "2"]]:
    """Learning rates of network, encoding and poses; grad_scale and found_inf (1: no step) of
    network and poses. `failed_step` and `finite_terms` are updated in place."""
    factor, pose_rate, poses_move = schedule.unbind()
    fails_now = ~torch.isfinite(norms.sum()) & (failed_step < 0)
    kept = finite_terms[: len(terms)]
    kept.copy_(torch.where(fails_now, torch.isfinite(terms), kept))
    failed_step.copy_(torch.where(fails_now, step, failed_step))
    has_failed = (failed_step >= 0).float()
    scales = [
        (norm / max_norm).clamp(min=1) for norm, max_norm in zip(norms, max_norms, strict=True)
    ]
    return (
        torch.stack([factor * learning_rates[0], factor * learning_rates[1], pose_rate]),
        torch.stack(scales),
        torch.stack([has_failed, torch.maximum(has_failed, 1 - poses_move)]),
    )


def _gradient_norm(parameters: list[nn.Parameter], device: torch.device) -> Float[Tensor, ""]:
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros((), device=device)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
