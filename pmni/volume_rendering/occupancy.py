"""The occupancy grid: a coarse cache of f that says where samples along rays can matter."""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample

from pmni.config.training import OccupancySettings

COARSE_FACTOR = 4
"""Cells of the grid along a side of a coarse cell, the first level of the refresh."""


@runtime_checkable
class Values(Protocol):
    """f without gradients."""

    def __call__(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]: ...


class OccupancyGrid:
    """f at the centres of the cells of [-1, 1]^3, as of the last refresh.

    Zero (occupied) before the first refresh, and in coarse cells that exceed the capacity of a
    refresh. Far from the surface, cells hold the value of their coarse cell.
    """

    def __init__(self, settings: OccupancySettings, device: torch.device) -> None:
        self.settings = settings
        self.resolution = settings.resolution
        self.values: Float[Tensor, "n n n"] = torch.zeros((self.resolution,) * 3, device=device)

    def truncation(self, inv_s: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Largest cached |f| at which samples are placed, normalised units.

        The setting, or less if the density is so sharp that weights vanish earlier, plus half a
        cell: by that much the distance from a plane, or from both sides of a thin sheet, may differ
        from what is interpolated between the cells. Elsewhere f is smoother, and the half cell is
        how far the surface may move until the next refresh.
        """
        tails = self.settings.density_tails / inv_s.detach()
        return tails.clamp(max=self.settings.truncation) + 1 / self.resolution

    @torch.no_grad()
    def refresh(self, f: Values, capacity: int | None = None) -> Int[Tensor, ""]:
        """Evaluate f at coarse cells, and at the cells of the coarse cells near the surface.

        With a `capacity`, at most so many coarse cells are evaluated at their cells, and the host
        does not wait for the device; the others near the surface become zero. Returns the number of
        coarse cells near the surface.
        """
        n, step = self.resolution, COARSE_FACTOR
        device = self.values.device
        half_diagonal = math.sqrt(3) / n
        coarse = cell_centres(n // step, device).view(-1, 3)
        values = f(coarse)
        bound = self.settings.lipschitz_bound
        near = values.abs() < self.settings.truncation + (1 + bound * step) * half_diagonal
        children = torch.where(near, 0.0, values)[:, None].repeat(1, step**3)
        if capacity is None:
            chosen = near.nonzero()[:, 0]
        else:  # those near the surface first
            chosen = near.to(torch.uint8).argsort(descending=True, stable=True)[:capacity]
        offsets = (cell_centres(step, device) * (step / n)).view(1, -1, 3)
        fine = f((coarse[chosen, None] + offsets).reshape(-1, 3)).view(-1, step**3)
        children[chosen] = torch.where(near[chosen, None], fine, children[chosen])
        m = n // step
        blocks = children.view(m, m, m, step, step, step)
        self.values.copy_(blocks.permute(0, 3, 1, 4, 2, 5).reshape(n, n, n))
        return near.sum()

    def sample(self, x: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """Cached f, trilinear between the cells' centres; constant beyond them."""
        coordinates = x.reshape(1, -1, 1, 1, 3).to(self.values.dtype)
        sampled = grid_sample(
            self.values.permute(2, 1, 0)[None, None],
            coordinates,
            padding_mode="border",
            align_corners=False,
        )
        return sampled.view(x.shape[:-1])


def cell_centres(n: int, device: torch.device) -> Float[Tensor, "n n n 3"]:
    """Centres of the n^3 cells of [-1, 1]^3."""
    axis = (torch.arange(n, device=device) + 0.5) * (2 / n) - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
