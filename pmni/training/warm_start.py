"""The warm start: the network is fitted to a given signed distance grid."""

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.training import TrainSettings
from pmni.runtime.cuda_graphs import repeat
from pmni.sdf.grid import GridSDF, grid_nodes
from pmni.sdf.network import NeuralSDF
from pmni.training.adam import Adam
from pmni.training.rng import StepRng, Stream


def fit_network(
    network: NeuralSDF, target: Float[Tensor, "n n n"], settings: TrainSettings
) -> float:
    """Fit the network to the values of a grid on [-1, 1]^3, half of the points near its surface.

    Returns the mean absolute difference of the last step.
    """
    fit = settings.warm_start
    grid = GridSDF(target)
    device = target.device
    spacing = 2 / (len(target) - 1)
    near = grid_nodes(len(target), device)[target.abs() < fit.near_cells * spacing]
    if len(near) == 0:
        near = torch.zeros(1, 3, device=device)
    optimizer = Adam(list(network.parameters()), settings.optimizer)
    learning_rate = torch.tensor(fit.learning_rate, device=device)
    counter = torch.zeros((), dtype=torch.int64, device=device)
    rng = StepRng(settings.seed, counter)
    count = fit.points // 2

    error = torch.full((), torch.nan, device=device)

    def step() -> None:
        node = rng.integers(len(near), Stream.FIT_NODE, count)
        offset = (rng.uniform(Stream.FIT_OFFSET, count, 3) - 0.5) * 2 * spacing
        uniform = rng.uniform(Stream.FIT_BOX, fit.points - count, 3) * 2 - 1
        x = torch.cat([near[node] + offset, uniform]).clamp(-1, 1)
        wanted = grid(x)
        weight = 1 / (1 + (wanted.abs() / (fit.weight_cells * spacing)) ** 2)
        difference = (network(x) - wanted).abs()
        optimizer.zero_grad()
        (weight * difference).mean().backward()
        optimizer.step(learning_rate)
        counter.add_(1)
        error.copy_(difference.detach().mean())

    repeat(step, fit.steps, device)
    return float(error)
