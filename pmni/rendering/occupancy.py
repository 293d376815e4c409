"""Which cells of the normalised world can hold samples that matter."""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

EMPTY, SHELL, INSIDE = 0, 1, 2


@runtime_checkable
class Values(Protocol):
    """f without gradients."""

    def __call__(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]: ...


class OccupancyGrid:
    """Cells of [-1, 1]^3: EMPTY, SHELL (the surface may be near) or INSIDE.

    A cell belongs to the shell when |f| at its centre is below `shell` plus half its diagonal.
    """

    COARSE = 4  # cells of a coarse cell along a side
    SLACK = 1.5  # how much steeper than a distance f may be for coarse cells to be trusted

    def __init__(self, resolution: int, shell: float, device: torch.device) -> None:
        self.resolution = resolution
        self.shell = shell
        self.cells: UInt8[Tensor, "n n n"] = torch.full(
            (resolution,) * 3, SHELL, dtype=torch.uint8, device=device
        )

    @torch.no_grad()
    def refresh(self, f: Values, room: int | None = None) -> Int[Tensor, ""]:
        """Classify all cells. f is evaluated at coarse cells, and at the cells of those near 0.

        Only `room` coarse cells are evaluated more finely, if it is given, and nothing waits for
        the device then: cells of the others that are near 0 belong to the shell. Returns how many
        are near 0.
        """
        n, step = self.resolution, self.COARSE
        device = self.cells.device
        half_diagonal = math.sqrt(3) / n
        coarse = cell_centres(n // step, device).view(-1, 3)
        values = f(coarse)
        near = values.abs() < self.shell + (1 + self.SLACK * step) * half_diagonal
        cells = torch.where(near, SHELL, torch.where(values < 0, INSIDE, EMPTY)).to(torch.uint8)
        children = cells[:, None].repeat(1, step**3)
        if room is None:
            chosen = near.nonzero()[:, 0]
        else:  # those near 0 first
            chosen = near.to(torch.uint8).argsort(descending=True, stable=True)[:room]
        offsets = (cell_centres(step, device) * (step / n)).view(1, -1, 3)
        fine = f((coarse[chosen, None] + offsets).reshape(-1, 3)).view(-1, step**3)
        kind = torch.where(fine < 0, INSIDE, EMPTY)
        kind = torch.where(fine.abs() < self.shell + half_diagonal, SHELL, kind).to(torch.uint8)
        children[chosen] = torch.where(near[chosen, None], kind, children[chosen])
        m = n // step
        blocks = children.view(m, m, m, step, step, step)
        self.cells.copy_(blocks.permute(0, 3, 1, 4, 2, 5).reshape(n, n, n))
        return near.sum()

    def at(self, x: Float[Tensor, "*batch 3"]) -> UInt8[Tensor, "*batch"]:
        """The kind of the cell at points; EMPTY outside [-1, 1]^3."""
        n = self.resolution
        index = ((x + 1) * (n / 2)).floor().long()
        inside = ((index >= 0) & (index < n)).all(-1)
        index = index.clamp(0, n - 1)
        flat = (index[..., 0] * n + index[..., 1]) * n + index[..., 2]
        return torch.where(inside, self.cells.view(-1)[flat], EMPTY)


def cell_centres(n: int, device: torch.device) -> Float[Tensor, "n n n 3"]:
    """Centres of the n^3 cells of [-1, 1]^3."""
    axis = (torch.arange(n, device=device) + 0.5) * (2 / n) - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
