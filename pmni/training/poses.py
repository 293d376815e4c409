"""The camera poses: learned as a left perturbation of each initial pose, or put somewhere."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pmni.lie import se3_exp


class LearnedPoses(nn.Module):
    """c2w = Exp(xi) @ c2w_init with xi in se(3): turns and moves a camera about the world's origin.

    The parameters are xi's coordinates along the initial camera's own axes, the translation along
    the viewing axis in units of the camera's distance: the six then move the image by similar
    amounts, as an optimiser with one learning rate needs. Parameters (V, 6): translation, rotation.

    They are learned with the method `adam` only; otherwise poses are where they are `put`.
    """

    initial: Tensor
    current: Tensor
    axes: Tensor

    def __init__(self, initial: Float[Tensor, "V 4 4"], gauge: str, method: str) -> None:
        super().__init__()
        self.register_buffer("initial", initial.clone())
        self.register_buffer("current", initial.clone())
        rotation = initial[:, :3, :3]
        units = torch.ones(len(initial), 3, dtype=initial.dtype, device=initial.device)
        units[:, 2] = torch.linalg.vector_norm(initial[:, :3, 3], dim=-1)
        self.register_buffer("axes", torch.stack([rotation * units[:, None], rotation], dim=1))
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
        return se3_exp(self.xi()) @ self.initial

    def put(self, c2w: Float[Tensor, "V 4 4"]) -> None:
        """Move the cameras there."""
        self.current.copy_(c2w)


class ViewScales(nn.Module):
    """Positive scales of each view's ray distances; the last view's is 1."""

    def __init__(self, views: int) -> None:
        super().__init__()
        self.logarithms = nn.Parameter(torch.zeros(views - 1))

    def forward(self) -> Float[Tensor, "V"]:
        """The scales."""
        return torch.cat([self.logarithms.exp(), self.logarithms.new_ones(1)])
