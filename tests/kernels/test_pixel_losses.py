"""The kernel of the losses of pixels against their reference implementations."""

import pytest
import torch
from torch.autograd import grad

pytest.importorskip("triton")

from fixtures.kernels import DEVICE

import pmni.kernels.pixel_losses
from pmni.training.losses.eikonal import eikonal_loss
from pmni.training.losses.mask import mask_loss
from pmni.training.losses.normal import normal_loss

pytestmark = pytest.mark.usefixtures("reference_is_torch")


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("shape", [(7, 3, 3), (1, 1, 1), (300, 1, 1)])
@pytest.mark.parametrize("part", [0.7, 0.0])
def test_terms_of_pixels_and_their_derivatives(norm, shape, part):
    generator = torch.Generator().manual_seed(0)
    normal, given = torch.randn(2, *shape, 3, generator=generator).to(DEVICE)
    opacity, error, other = (torch.rand(3, *shape, generator=generator) * 1.2 - 0.1).to(DEVICE)
    opacity = opacity.clamp(0, 1)
    mask = (other < part).float()
    sources = [tensor.requires_grad_() for tensor in (normal, opacity, error)]
    intervals = torch.tensor(5 if part else 0, device=DEVICE)
    arguments = (*sources, intervals, given, mask, norm)
    reference = torch.stack(
        [
            normal_loss(normal, given, mask, norm),
            mask_loss(opacity, mask),
            eikonal_loss(error, intervals),
        ]
    )
    found = pmni.kernels.pixel_losses.pixel_losses(*arguments)
    torch.testing.assert_close(found, reference, atol=1e-6, rtol=1e-5)
    weights = torch.tensor([0.3, 2.0, -1.0], device=DEVICE)
    for a, b in zip(grad(found, sources, weights), grad(reference, sources, weights), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
