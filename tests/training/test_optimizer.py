"""Guarded Adam steps."""

from collections.abc import Sequence

import pytest
import torch
from fixtures.training import CPU, TINY
from torch import nn

from pmni.config.training import OptimizerSettings
from pmni.training.optimizer import Optimizer


def updated(
    gradients: Sequence[tuple[list[float], list[float]]], moving: float = 1.0
) -> tuple[Optimizer, torch.Tensor, torch.Tensor]:
    """The optimiser and two parameters after steps with these gradients."""
    field = nn.Parameter(torch.ones(2))
    pose = nn.Parameter(torch.ones(1))
    optimizer = Optimizer(
        OptimizerSettings(learning_rate=0.1, warm_up_steps=2), [field], [], [pose], [], CPU
    )
    for step, (a, b) in enumerate(gradients):
        field.grad, pose.grad = torch.tensor(a), torch.tensor(b)
        terms = torch.tensor([1.0, float("nan")])
        optimizer.step(torch.tensor(step), terms, torch.tensor([0.5, 0.01, moving]))
    return optimizer, field.detach(), pose.detach()


def test_a_step_is_adams() -> None:
    gradients = [([0.3, -0.4], [0.1]), ([0.1, 0.2], [0.3])]
    _, field, pose = updated(gradients)
    for found, index, rate in ((field, 0, 0.05), (pose, 1, 0.01)):
        expected = nn.Parameter(torch.ones(len(found)))
        adam = torch.optim.Adam([expected], lr=rate)
        for gradient in gradients:
            expected.grad = torch.tensor(gradient[index])
            adam.step()
        torch.testing.assert_close(found, expected.detach())


def test_gradients_are_clipped_each_by_its_own_limit() -> None:
    assert (TINY.optimizer.clip_network, TINY.optimizer.clip_poses) == (1, 10)
    state = updated([([30.0, 40.0], [5.0])])[0].state()
    torch.testing.assert_close(state["network"]["means"][0], torch.tensor([0.06, 0.08]))
    torch.testing.assert_close(state["poses"]["means"][0], torch.tensor([0.5]))


@pytest.mark.parametrize("broken", [([float("nan"), 0.0], [0.1]), ([0.1, 0.1], [float("inf")])])
def test_nothing_moves_from_the_first_broken_gradient_on(
    broken: tuple[list[float], list[float]],
) -> None:
    fine = ([0.3, -0.4], [0.1])
    before, field, pose = updated([fine])
    after, *others = updated([fine, broken, fine, broken])
    assert torch.equal(others[0], field)
    assert torch.equal(others[1], pose)
    assert int(before.failed_step) == -1
    assert int(after.failed_step) == 1
    assert after.finite_terms.tolist()[:3] == [True, False, True]
    assert float(after.state()["network"]["steps"][0]) == 1


def test_poses_stay_until_they_move() -> None:
    _, field, pose = updated([([0.3, -0.4], [0.1])], moving=0.0)
    assert pose.item() == 1
    assert field[0].item() == pytest.approx(0.95)
