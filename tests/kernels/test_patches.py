"""The kernel that samples patches against its reference implementation."""

import pytest
import torch

pytest.importorskip("triton")

from fixtures.kernels import DEVICE
from fixtures.training import sphere_capture

from pmni import kernels
from pmni.data.views import Views
from pmni.training.patches import PatchSampler
from pmni.training.rng import StepRng

pytestmark = pytest.mark.usefixtures("reference_is_torch")


def draws(seed: int, step: int) -> StepRng:
    return StepRng(seed, torch.tensor(step, device=DEVICE))


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
