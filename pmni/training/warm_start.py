"""A start for the network: fitted to a surface that is known already."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from pmni.fields.band import BandSDF
from pmni.fields.grid import GridSDF, grid_nodes
from pmni.fields.network import NeuralSDF
from pmni.fields.sdf import SDF

NEAR = 2.0
"""Cells from the surface within which most points lie."""
ELSEWHERE = 0.1
"""Weight of the points anywhere beside those near the surface."""
NORMALS = 0.3
"""Weight of the gradients beside the values, which are in cells."""
FINAL_RATE = 0.05
"""Of the rate at the first step."""


def fit_to_hull(
    network: NeuralSDF,
    values: Float[Tensor, "n n n"],
    steps: int,
    points: int,
    rate: float,
    generator: torch.Generator,
) -> float:
    """Fit the network's values to those at a grid's nodes; a rough surface, so normals are left.

    Returns the mean difference of the last step near the surface, in cells of the grid.
    """
    spacing = 2 / (len(values) - 1)
    near = grid_nodes(len(values), values.device)[values.abs() < NEAR * spacing]
    if len(near) == 0:
        near = torch.zeros(1, 3, device=values.device)
    return _fit(network, GridSDF(values), near, spacing, steps, points, rate, 0.0, generator)


def fit_to_surface(
    network: NeuralSDF,
    surface: BandSDF,
    steps: int,
    points: int,
    rate: float,
    generator: torch.Generator,
) -> float:
    """Fit the network's values and normals to those of a grid surface.

    Returns the mean difference of the last step near the surface, in cells of the grid.
    """
    spacing = surface.grid.spacing
    near = surface.grid.positions()[surface.values.abs() < NEAR * spacing]
    return _fit(network, surface, near, spacing, steps, points, rate, NORMALS, generator)


def _fit(
    network: NeuralSDF,
    target: SDF,
    near: Float[Tensor, "N 3"],
    spacing: float,
    steps: int,
    points: int,
    rate: float,
    normals: float,
    generator: torch.Generator,
) -> float:
    device = near.device
    optimiser = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, FINAL_RATE ** (1 / steps))
    close = 3 * points // 4
    for _ in range(steps):
        index = torch.randint(len(near), (close,), generator=generator).to(device)
        noise = (torch.rand(close, 3, generator=generator) - 0.5).to(device) * spacing
        x = (near[index] + noise).clamp(-1, 1)
        anywhere = (torch.rand(points - close, 3, generator=generator) * 2 - 1).to(device)
        with torch.no_grad():
            wanted, wanted_gradient = target.value_and_gradient(x)
            beyond = target(anywhere)
        value, gradient = network.value_and_gradient(x) if normals else (network(x), None)
        difference = (value - wanted).abs().mean() / spacing
        weight = 1 / (1 + (beyond / (4 * spacing)) ** 2)
        loss = (
            difference + ELSEWHERE * (weight * (network(anywhere) - beyond).abs()).mean() / spacing
        )
        if gradient is not None:
            loss = (
                loss
                + normals * (gradient - normalize(wanted_gradient, dim=-1)).abs().sum(-1).mean()
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return float(difference.detach())
