"""A grid surface with a correction by a network."""

from pathlib import Path

import pytest
import torch
from fixtures.training import CPU, Body

from pmni.config.training import FieldSettings
from pmni.sdf.checkpoint import load_surface, save_surface
from pmni.sdf.network import NeuralSDF
from pmni.sdf.residual import ResidualSDF


@pytest.mark.parametrize("weight_norm", [True, False])
def test_a_correction_begins_at_nothing_and_can_be_saved(
    body: Body, tmp_path: Path, weight_norm: bool
) -> None:
    _, surface = body
    field = FieldSettings(levels=4, log2_entries=10, base_resolution=8, weight_norm=weight_norm)
    network = NeuralSDF(field, seed=3)
    network.zero_init(seed=3)
    both = ResidualSDF(surface, network)
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert network(x).abs().max() < 1e-4 * surface.grid.spacing
    assert (network(x) > 0).any()
    assert (network(x) < 0).any()
    bias = network._layer(-1).bias
    (slope,) = torch.autograd.grad(both(x).sum(), bias)
    assert slope.abs() > 0
    with torch.no_grad():
        bias.add_(0.125)
        torch.testing.assert_close(both(x), surface(x) + 0.125, atol=1e-5, rtol=0)
        value, gradient = both.value_and_gradient(x)
    torch.testing.assert_close(value, both(x))
    torch.testing.assert_close(gradient, surface.value_and_gradient(x)[1], atol=1e-3, rtol=0)
    save_surface(tmp_path / "s.safetensors", both, field, 7)
    again = load_surface(tmp_path / "s.safetensors", CPU)
    assert isinstance(again, ResidualSDF)
    assert torch.equal(again(x), both(x))
