"""The kernel of a narrow band against its reference implementation."""

import pytest
import torch

pytest.importorskip("triton")

from fixtures.kernels import DEVICE, RAYS

from pmni import kernels
from pmni.kernels.narrow_band import interpolate

pytestmark = pytest.mark.usefixtures("reference_is_torch")


def test_values_and_gradients_match_the_reference(band):
    x = 1.86 * torch.rand(RAYS, 3, generator=torch.Generator().manual_seed(3)) - 0.93
    x[:20] *= 0.6 / x[:20].norm(dim=-1, keepdim=True)
    x = x.to(DEVICE)
    value, gradient = band.value_and_gradient(x)
    found = interpolate(band.kernel_tensors(with_gradients=True), x)
    torch.testing.assert_close(found[0], value, atol=2e-6, rtol=0)
    torch.testing.assert_close(found[1:].t(), gradient, atol=1e-4, rtol=0)
    assert torch.equal(interpolate(band.kernel_tensors(), x)[0], found[0])
    assert interpolate(band.kernel_tensors(with_gradients=True), x[:0]).shape == (4, 0)


def test_kernels_find_values_where_no_derivatives_are_wanted(band, monkeypatch):
    monkeypatch.setattr(kernels, "use_triton", lambda device: True)
    x = torch.zeros(2, 3, device=DEVICE)
    assert band._runs_kernels(x)
    assert not band._runs_kernels(x.double())
    x.requires_grad_()
    assert not band._runs_kernels(x)
    with torch.no_grad():
        assert band._runs_kernels(x)
        value, gradient = band.value_and_gradient(x)
        torch.testing.assert_close(band(x), value)
        assert gradient.shape == (2, 3)
