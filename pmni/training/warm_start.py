"""A start for the network: fitted to a surface that is known already."""

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.fields.grid import GridSDF, grid_nodes
from pmni.fields.network import NeuralSDF


def fit_network(
    network: NeuralSDF,
    target: Float[Tensor, "n n n"],
    steps: int,
    points: int,
    rate: float,
    generator: torch.Generator,
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
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    error = float("nan")
    for _ in range(steps):
        number = points // 2
        index = torch.randint(len(near), (number,), generator=generator).to(device)
        noise = (torch.rand(number, 3, generator=generator) - 0.5).to(device) * 2 * spacing
        anywhere = (torch.rand(points - number, 3, generator=generator) * 2 - 1).to(device)
        x = torch.cat([near[index] + noise, anywhere]).clamp(-1, 1)
        wanted = grid(x)
        weight = 1 / (1 + (wanted.abs() / (4 * spacing)) ** 2)
        difference = (network(x) - wanted).abs()
        loss = (weight * difference).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        error = float(difference.detach().mean())
    return error
