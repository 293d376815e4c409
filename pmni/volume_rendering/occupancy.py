"""Where samples can matter: a coarse memory of f."""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample

TAIL = 5.0
"""Weights where |f| > TAIL / inv_s add up to less than exp(-TAIL) before the surface, and as much
behind it."""


@runtime_checkable
class Values(Protocol):
    """f without gradients."""

    def __call__(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]: ...


class OccupancyGrid:
    """f at the centres of the cells of [-1, 1]^3, as it was when they were last refreshed.

    Zero is what it may be anywhere: at first, and where there was no room to evaluate it. Far from
    the surface f is that of a coarser grid.
    """

    COARSE = 4  # cells of a coarse cell along a side
    SLACK = 1.5  # how much steeper than a distance f may be for coarse cells to be trusted

    def __init__(self, resolution: int, shell: float, device: torch.device) -> None:
        self.resolution = resolution
        self.shell = shell
        self.values: Float[Tensor, "n n n"] = torch.zeros((resolution,) * 3, device=device)

    def reach(self, inv_s: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Samples matter where the remembered |f| is below this.

        That is the shell, or less if the sharpness makes their weights vanish earlier, and half a
        cell: by so much a distance from a plane, or from both sides of a thin sheet, may differ
        from what is interpolated between the cells. In most places f is smoother, and this is what
        it may move by until the next refresh.
        """
        return (TAIL / inv_s.detach()).clamp(max=self.shell) + 1 / self.resolution

    @torch.no_grad()
    def refresh(self, f: Values, room: int | None = None) -> Int[Tensor, ""]:
        """Evaluate f at coarse cells, and at the cells of those near 0.

        Only `room` coarse cells are evaluated more finely, if it is given, and nothing waits for
        the device then: in the others that are near 0, f may be anything. Returns how many are near
        0.
        """
        n, step = self.resolution, self.COARSE
        device = self.values.device
        half_diagonal = math.sqrt(3) / n
        coarse = cell_centres(n // step, device).view(-1, 3)
        values = f(coarse)
        near = values.abs() < self.shell + (1 + self.SLACK * step) * half_diagonal
        children = torch.where(near, 0.0, values)[:, None].repeat(1, step**3)
        if room is None:
            chosen = near.nonzero()[:, 0]
        else:  # those near 0 first
            chosen = near.to(torch.uint8).argsort(descending=True, stable=True)[:room]
        offsets = (cell_centres(step, device) * (step / n)).view(1, -1, 3)
        fine = f((coarse[chosen, None] + offsets).reshape(-1, 3)).view(-1, step**3)
        children[chosen] = torch.where(near[chosen, None], fine, children[chosen])
        m = n // step
        blocks = children.view(m, m, m, step, step, step)
        self.values.copy_(blocks.permute(0, 3, 1, 4, 2, 5).reshape(n, n, n))
        return near.sum()

    def at(self, x: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """f between the cells' centres, trilinear; constant beyond them."""
        place = x.reshape(1, -1, 1, 1, 3).to(self.values.dtype)
        found = grid_sample(
            self.values.permute(2, 1, 0)[None, None],
            place,
            padding_mode="border",
            align_corners=False,
        )
        return found.view(x.shape[:-1])


def cell_centres(n: int, device: torch.device) -> Float[Tensor, "n n n 3"]:
    """Centres of the n^3 cells of [-1, 1]^3."""
    axis = (torch.arange(n, device=device) + 0.5) * (2 / n) - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
