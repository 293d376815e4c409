"""Signed distance functions with known surfaces, for the tests of meshing and tracing."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Analytic:
    """A function of points (N, 3) as a surface model; its gradient by automatic differentiation."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = self.function(x)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient


def sphere(radius: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Analytic:
    return Analytic(lambda x: (x - x.new_tensor(centre)).norm(dim=-1) - radius)


def torus(major: float, minor: float) -> Analytic:
    """About the z axis."""

    def function(x: Tensor) -> Tensor:
        ring = torch.stack([x[:, :2].norm(dim=-1) - major, x[:, 2]], dim=-1)
        return ring.norm(dim=-1) - minor

    return Analytic(function)


def box(*half: float) -> Analytic:
    def function(x: Tensor) -> Tensor:
        q = x.abs() - x.new_tensor(half)
        return q.clamp(min=0).norm(dim=-1) + q.amax(dim=-1).clamp(max=0)

    return Analytic(function)


def union(*parts: Analytic) -> Analytic:
    return Analytic(lambda x: torch.stack([part(x) for part in parts]).amin(dim=0))


def distorted(sdf: Analytic, factor: float, wave: float) -> Analytic:
    """The same surface, but a function that is not a distance: scaled, and unevenly so."""
    return Analytic(lambda x: sdf(x) * factor * (1 + wave * torch.sin(9 * x).prod(dim=-1)))
