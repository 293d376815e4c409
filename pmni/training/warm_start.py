"""A start for the network: fitted to a surface that is known already."""

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.runtime.cuda_graphs import repeat
from pmni.sdf.grid import GridSDF, grid_nodes
from pmni.sdf.network import NeuralSDF
from pmni.training.adam import Adam
from pmni.training.draws import Draws, Stream


def fit_network(
    network: NeuralSDF,
    target: Float[Tensor, "n n n"],
    steps: int,
    points: int,
    rate: float,
    seed: int,
) -> float:
    """Fit the network's values to a grid of values, most points near its surface.

    Returns the mean absolute difference of the last step.
    """
    grid = GridSDF(target)
    device = target.device
    spacing = 2 / (len(target) - 1)
    near = grid_nodes(len(target), device)[target.abs() < 2 * spacing]
    if len(near) == 0:
        near = torch.zeros(1, 3, device=device)
    optimiser = Adam(list(network.parameters()))
    constant = torch.tensor(rate, device=device)
    clock = torch.zeros((), dtype=torch.int64, device=device)
    draws = Draws(seed, clock)
    number = points // 2

    error = torch.full((), torch.nan, device=device)

    def step() -> None:
        node = draws.below(len(near), Stream.FIT_NODE, number)
        noise = (draws.uniform(Stream.FIT_SHIFT, number, 3) - 0.5) * 2 * spacing
        anywhere = draws.uniform(Stream.FIT_ANYWHERE, points - number, 3) * 2 - 1
        x = torch.cat([near[node] + noise, anywhere]).clamp(-1, 1)
        wanted = grid(x)
        weight = 1 / (1 + (wanted.abs() / (4 * spacing)) ** 2)
        difference = (network(x) - wanted).abs()
        optimiser.forget_gradients()
        (weight * difference).mean().backward()
        optimiser.step(constant)
        clock.add_(1)
        error.copy_(difference.detach().mean())

    repeat(step, steps, device)
    return float(error)
