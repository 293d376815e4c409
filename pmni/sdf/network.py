"""The neural SDF: an encoding and a small multilayer perceptron with geometric initialisation."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized

from pmni import kernels
from pmni.config.training import FieldSettings
from pmni.sdf.encoding import make_encoding

ZERO_INIT_STD = 1e-6
"""Standard deviation of the output weights of a network that starts as a zero correction."""


class NeuralSDF(nn.Module):
    """f(x) on [-1, 1]^3: the encoding of x and x itself, softplus layers, one output.

    Initially f is close to the distance from a sphere of radius `initial_radius` (geometric
    initialisation, Atzmon and Lipman, CVPR 2020), whatever the encoding holds. On a GPU a network
    with one hidden layer is computed by kernels, unless the backend is torch.
    """

    def __init__(self, settings: FieldSettings, seed: int) -> None:
        super().__init__()
        self.settings = settings
        self.encoding = make_encoding(settings, seed)
        self.levels = settings.levels
        self.skip = settings.skip
        self.backend = settings.backend
        self.active = settings.levels
        """Number of active levels of the encoding."""
        generator = torch.Generator().manual_seed(seed + 1)
        inputs = 3 + self.encoding.width
        widths = [inputs] + [settings.width] * settings.layers + [1]
        self.layers = nn.ModuleList()
        for index in range(len(widths) - 1):
            out = widths[index + 1] - (inputs if index + 1 == self.skip else 0)
            layer = nn.Linear(widths[index], out)
            last = index == len(widths) - 2
            _geometric_initialisation(
                layer, index, self.skip, last, inputs, settings.initial_radius, generator
            )
            self.layers.append(weight_norm(layer) if settings.weight_norm else layer)
        self.activation = nn.Softplus(beta=100)

    @torch.no_grad()
    def zero_init(self, seed: int) -> None:
        """Make f almost zero everywhere, without a preferred sign: the start of a correction."""
        last = self._layer(-1)
        weight = torch.empty(last.weight.shape)
        weight.normal_(0, ZERO_INIT_STD, generator=torch.Generator().manual_seed(seed))
        if is_parametrized(last):
            last.weight = weight.to(last.weight)
        else:
            last.weight.copy_(weight)
        last.bias.zero_()

    def forward(
        self, x: Float[Tensor, "N 3"], num_valid: Int[Tensor, ""] | None = None
    ) -> Float[Tensor, " N"]:
        """Signed distances, normalised units; differentiable with respect to x, twice.

        Values at points from `num_valid` on, if that is given, mean nothing.
        """
        features = self.encoding((x + 1) / 2, self.active, num_valid)
        if self._runs_kernels(x):
            from pmni.kernels.mlp import values

            return values(x, features, *self._weights(), num_valid=num_valid)
        inputs = torch.cat([x, features], dim=-1)
        hidden = inputs
        for index, layer in enumerate(self.layers):
            if self.skip and index == self.skip:
                hidden = torch.cat([hidden, inputs], dim=-1) / math.sqrt(2)
            hidden = layer(hidden)
            if index < len(self.layers) - 1:
                hidden = self.activation(hidden)
        return hidden[:, 0]

    def value_and_gradient(
        self, x: Float[Tensor, "N 3"], num_valid: Int[Tensor, ""] | None = None
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
        """Values and analytic gradients; differentiable when autograd is recording."""
        recording = torch.is_grad_enabled()
        with torch.enable_grad():
            points = x if x.requires_grad else x.detach().requires_grad_()
            if self._runs_kernels(x):
                values, gradient = self._by_kernels(points, recording, num_valid)
            else:
                values = self(points, num_valid)
                (gradient,) = torch.autograd.grad(values.sum(), points, create_graph=recording)
        return (values, gradient) if recording else (values.detach(), gradient)

    def _by_kernels(
        self, x: Float[Tensor, "N 3"], recording: bool, num_valid: Int[Tensor, ""] | None
    ) -> tuple[Tensor, Tensor]:
        """Values and gradients: x enters f directly and through the encoding."""
        encoding = self.encoding
        grid = encoding.kernel_grid(x.device, self.active, num_valid)
        if grid is not None:
            from pmni.kernels.network import values_and_gradients

            with torch.set_grad_enabled(recording):
                return values_and_gradients(x, grid, self._weights())
        from pmni.kernels.mlp import values_and_slopes

        features = encoding((x + 1) / 2, self.active, num_valid)
        with torch.set_grad_enabled(recording):
            values, gradient, slopes = values_and_slopes(
                x, features, *self._weights(), num_valid=num_valid
            )
        if encoding.width:
            (indirect,) = torch.autograd.grad(features, x, slopes, create_graph=recording)
            gradient = gradient + indirect
        return values, gradient

    def _runs_kernels(self, x: Tensor) -> bool:
        """Whether kernels compute the layers: there is one hidden layer, and it fits."""
        if self.backend == "torch" or len(self.layers) != 2 or not kernels.use_triton(x.device):
            return False
        from pmni.kernels.mlp import fits

        first = self._layer(0)
        layer_fits = fits(first.in_features, first.out_features)
        return x.dtype == torch.float32 and not self.skip and layer_fits

    def _layer(self, index: int) -> nn.Linear:
        layer = self.layers[index]
        assert isinstance(layer, nn.Linear)
        return layer

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights and biases of both layers."""
        first, second = self._layer(0), self._layer(1)
        return first.weight, first.bias, second.weight, second.bias


def _geometric_initialisation(
    layer: nn.Linear,
    index: int,
    skip: int,
    last: bool,
    inputs: int,
    radius: float,
    generator: torch.Generator,
) -> None:
    """Set weights with which the network is the distance from a sphere; features have weight 0."""
    weight, bias = layer.weight.data, layer.bias.data
    bias.zero_()
    if last:
        mean = math.sqrt(math.pi) / math.sqrt(layer.in_features)
        weight.normal_(mean, 1e-4, generator=generator)
        bias.fill_(-radius)
        return
    weight.normal_(0, math.sqrt(2 / layer.out_features), generator=generator)
    if index == 0:
        weight[:, 3:] = 0
    elif skip and index == skip:
        weight[:, layer.in_features - inputs + 3 :] = 0
