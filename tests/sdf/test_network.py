"""The neural SDF: initialisation, gradients, levels, backends."""

import pytest
import torch

from pmni.config.training import FieldSettings
from pmni.errors import MissingBackendError
from pmni.sdf.hash_grid import HashGrid
from pmni.sdf.network import NeuralSDF

SMALL = FieldSettings(levels=4, log2_entries=12, base_resolution=8)
NEUS = FieldSettings(encoding="none", layers=8, width=256, skip=4, levels=1)


def points(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(count, 3, generator=generator, dtype=dtype) * 2 - 1) * 0.9


@pytest.mark.parametrize("settings", [SMALL, NEUS], ids=["hash grid", "NeuS"])
def test_starts_as_a_sphere(settings: FieldSettings) -> None:
    f = NeuralSDF(settings, seed=0)
    x = points(500)
    f_of_x = f(x)
    radius = torch.linalg.vector_norm(x, dim=-1)
    assert torch.corrcoef(torch.stack([f_of_x, radius]))[0, 1] > 0.85
    assert (f(torch.zeros(1, 3)) < 0).all()
    assert (f(torch.eye(3) * 0.98) > 0).all()


@pytest.mark.parametrize("settings", [SMALL, NEUS], ids=["hash grid", "NeuS"])
def test_gradient_is_the_derivative(settings: FieldSettings) -> None:
    f = NeuralSDF(settings, seed=0).double()
    for parameter in f.parameters():
        parameter.data += 0.05 * torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
    x = points(20, torch.float64)
    _, gradient = f.value_and_gradient(x)
    step = 1e-6
    for axis in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[axis] = step
        numeric = (f(x + shift) - f(x - shift)) / (2 * step)
        torch.testing.assert_close(gradient[:, axis], numeric, atol=1e-5, rtol=1e-5)


def test_gradient_can_be_differentiated_again_only_while_recording() -> None:
    f = NeuralSDF(SMALL, seed=0)
    _, gradient = f.value_and_gradient(points(4))
    (gradient**2).sum().backward()
    assert isinstance(f.encoding, HashGrid)
    assert f.encoding.params.grad is not None
    with torch.no_grad():
        value, gradient = f.value_and_gradient(points(4))
    assert not value.requires_grad
    assert not gradient.requires_grad


def test_same_seed_same_network() -> None:
    x = points(10)
    assert torch.equal(NeuralSDF(SMALL, seed=5)(x), NeuralSDF(SMALL, seed=5)(x))
    assert not torch.equal(NeuralSDF(SMALL, seed=5)(x), NeuralSDF(SMALL, seed=6)(x))


def test_inactive_levels_do_not_matter() -> None:
    f = NeuralSDF(SMALL, seed=0)
    assert isinstance(f.encoding, HashGrid)
    for parameter in f.layers.parameters():
        parameter.data.normal_()
    x = points(10)
    f.active = 1
    before = f(x)
    first_level = f.encoding.levels[1].offset * 2
    f.encoding.params.data[first_level:] += 1
    assert torch.equal(f(x), before)


def test_missing_tinycudann_is_a_clear_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("tinycudann may be there")
    with pytest.raises(MissingBackendError, match=r"tinycudann.*train\.field\.backend: auto"):
        NeuralSDF(SMALL.model_copy(update={"backend": "tinycudann"}), seed=0)
