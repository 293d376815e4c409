"""The camera poses: learned as a left perturbation of each initial pose, or set from outside."""

from math import factorial

import torch
from jaxtyping import Float
from torch import Tensor, nn

SERIES_TERMS = 12
"""Terms of the power series in the exponential map: enough for rotations by up to pi."""


class LearnedPoses(nn.Module):
    """c2w = Exp(xi) @ c2w_init with xi in se(3): a rigid motion about the world's origin.

    The parameters (V, 6; rotation, translation) are xi's coordinates along the initial camera's own
    axes, the translation along the viewing axis in units of the camera's distance: the six then
    move the image by similar amounts, as an optimiser with one learning rate needs.

    They are learned with the method `adam` only; otherwise poses change by `set`.
    """

    initial: Tensor
    current: Tensor
    axes: Tensor
    generators: Tensor
    series: Tensor

    def __init__(self, initial: Float[Tensor, "V 4 4"], gauge: str, method: str) -> None:
        super().__init__()
        self.register_buffer("initial", initial.clone())
        self.register_buffer("current", initial.clone())
        rotation = initial[:, :3, :3]
        units = torch.ones(len(initial), 3, dtype=initial.dtype, device=initial.device)
        units[:, 2] = torch.linalg.vector_norm(initial[:, :3, 3], dim=-1)
        self.register_buffer("axes", torch.stack([rotation, rotation * units[:, None]], dim=1))
        self.register_buffer("generators", se3_generators().to(initial), persistent=False)
        self.register_buffer("series", exponential_series().to(initial), persistent=False)
        self.parameters_ = nn.Parameter(
            initial.new_zeros(len(initial), 6), requires_grad=method == "adam"
        )
        self.gauge = gauge

    def xi(self) -> Float[Tensor, "V 6"]:
        """The perturbations in world coordinates, gauge removed."""
        local = self.parameters_.view(-1, 2, 3, 1)
        xi = (self.axes @ local).view(-1, 6)
        return xi - (xi.mean(0) if self.gauge == "mean" else xi[0])

    def forward(self) -> Float[Tensor, "V 4 4"]:
        """The current camera-to-world matrices."""
        if not self.parameters_.requires_grad:
            return self.current
        return self._exponential(self.xi()) @ self.initial

    def _exponential(self, xi: Float[Tensor, "V 6"]) -> Float[Tensor, "V 4 4"]:
        """Exp: se(3) -> SE(3), |phi| up to pi: I + X + B X^2 + C X^3 for the twist X of xi, where
        B = (1 - cos |phi|) / |phi|^2 and C = (|phi| - sin |phi|) / |phi|^3.

        Smooth, and without a branch, so that the host does not wait for the device.
        """
        twist = (xi @ self.generators.flatten(1)).view(-1, 4, 4)
        squared = (xi[:, :3] ** 2).sum(-1, keepdim=True)
        powers = squared ** torch.arange(SERIES_TERMS, device=xi.device)
        b, c = (powers @ self.series)[..., None, None].unbind(1)
        one = torch.eye(4, dtype=xi.dtype, device=xi.device)
        return one + twist @ (one + twist @ (b * one + c * twist))

    def set(self, c2w: Float[Tensor, "V 4 4"]) -> None:
        """Replace the current poses."""
        self.current.copy_(c2w)


def se3_generators() -> Float[Tensor, "6 4 4"]:
    """Twists of the unit rotations and translations."""
    generators = torch.zeros(6, 4, 4, dtype=torch.float64)
    for axis in range(3):
        second, third = (axis + 1) % 3, (axis + 2) % 3
        generators[axis, third, second] = 1
        generators[axis, second, third] = -1
        generators[3 + axis, axis, 3] = 1
    return generators


def exponential_series() -> Float[Tensor, "n 2"]:
    """Coefficients of the powers of |phi|^2 in B and C (columns)."""
    rows = [
        [(-1) ** k / factorial(2 * k + 2), (-1) ** k / factorial(2 * k + 3)]
        for k in range(SERIES_TERMS)
    ]
    return torch.tensor(rows, dtype=torch.float64)


class ViewScales(nn.Module):
    """Learned positive scales of the views' ray distances; the last view's is 1."""

    def __init__(self, views: int) -> None:
        super().__init__()
        self.logarithms = nn.Parameter(torch.zeros(views - 1))

    def forward(self) -> Float[Tensor, " V"]:
        """The scales."""
        return torch.cat([self.logarithms.exp(), self.logarithms.new_ones(1)])
