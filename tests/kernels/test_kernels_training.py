"""Kernels of the training against their reference implementations."""

import pytest
import torch
from torch.autograd import grad

pytest.importorskip("triton")

from fixtures.training import sphere_capture

import pmni.kernels.patches
import pmni.kernels.pixel_losses
import pmni.kernels.random_bits
import pmni.kernels.step_guard
from pmni import kernels
from pmni.data.views import Views
from pmni.training.losses.eikonal import eikonal_loss
from pmni.training.losses.mask import mask_loss
from pmni.training.losses.normal import normal_loss
from pmni.training.optimizer import step_guard
from pmni.training.patches import PatchSampler
from pmni.training.rng import StepRng, stream_key

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def reference_is_torch(monkeypatch):
    monkeypatch.setenv(kernels.BACKEND_VARIABLE, "torch")


def draws(seed: int, step: int) -> StepRng:
    return StepRng(seed, torch.tensor(step, device=DEVICE))


@pytest.mark.parametrize(
    ("seed", "stream", "step", "count"),
    [(0, 0, 0, 1), (2**33 + 7, 5, 29999, 700), (3, 1, 2**31, 256)],
)
def test_numbers(seed, stream, step, count):
    one = draws(seed, step)
    found = pmni.kernels.random_bits.random_bits(stream_key(seed, stream), one.step, count)
    assert torch.equal(found, one.bits(stream, count))


@pytest.mark.parametrize(("patch", "background"), [(1, 0.25), (3, 0.25), (3, 0.0), (4, 0.5)])
def test_patches(patch, background, monkeypatch):
    views = Views.of(*sphere_capture(), device=DEVICE)
    sampler = PatchSampler(views, patch, 2, background)
    reference = sampler.draw(50, draws(3, 7))
    monkeypatch.setattr(kernels, "use_triton", lambda device: True)
    found = sampler.draw(50, draws(3, 7))
    for name, expected in vars(reference).items():
        assert torch.equal(getattr(found, name), expected), name
    assert not torch.equal(sampler.draw(50, draws(3, 8)).pixels, found.pixels)


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


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("norms", [(0.5, 20.0), (3.0, 1.0), (NAN, 1.0), (1.0, INF)])
@pytest.mark.parametrize("terms", [(1.0,), (0.1, NAN, 3.0, -INF, 1.0)])
@pytest.mark.parametrize("before", [-1, 4])
def test_updates(norms, terms, before):
    results = []
    for way in (step_guard, pmni.kernels.step_guard.step_guard):
        failed = torch.tensor(before, device=DEVICE)
        finite = torch.ones(16, dtype=torch.bool, device=DEVICE)
        given = [torch.tensor(values, device=DEVICE) for values in (terms, norms, (0.5, 1e-3, 0.0))]
        step = torch.tensor(9, device=DEVICE)
        found = way(step, *given, failed, finite, (1e-2, 3e-2), (1.0, 10.0))
        results.append((*found, failed, finite))
    for reference, other in zip(*results, strict=True):
        proper = (
            ~reference.isnan()
            if reference.is_floating_point()
            else torch.ones_like(reference, dtype=bool)
        )
        torch.testing.assert_close(other[proper], reference[proper])
