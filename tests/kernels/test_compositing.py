"""The kernel of compositing against its reference implementation."""

import pytest
import torch
from torch.autograd import grad

pytest.importorskip("triton")

from fixtures.kernels import DEVICE, assert_close, random
from fixtures.padded_planes import CAPACITY, CLOSE, march_by_kernels, planes_within
from fixtures.rendering import SphereSDF

import pmni.kernels.compositing
import pmni.volume_rendering.compositing
from pmni import kernels
from pmni.kernels.types import Patches, Planes
from pmni.volume_rendering.compositing import composite
from pmni.volume_rendering.gradients import Samples
from pmni.volume_rendering.marching import plane_points

pytestmark = pytest.mark.usefixtures("reference_is_torch")


@pytest.fixture(autouse=True)
def _small_programs(monkeypatch):
    if DEVICE.type == "cpu":  # the interpreter's time is that of its programs
        monkeypatch.setattr(pmni.kernels.compositing, "RAYS", 64)


def rendered(scene, between: bool, inv_s: float, noise: float):
    """Samples of a noisy sphere, their planes, and what their rendering depends on."""
    patches, _, _ = scene
    planes = planes_within(scene, CAPACITY)
    x = plane_points(patches, planes)
    f = SphereSDF()(x) + noise * random(*x.shape[:-1], seed=0)
    gradient = torch.nn.functional.normalize(x + 1e-3, dim=-1) + random(*x.shape, seed=1) / 3
    sources = [f.requires_grad_(), gradient.requires_grad_()]
    sources.append(torch.tensor(inv_s, device=DEVICE, requires_grad=True))
    return Samples(f, gradient, between), planes, sources


def composite_by_kernels(samples: Samples, patches: Patches, planes: Planes, inv_s: torch.Tensor):
    return pmni.kernels.compositing.composite(
        samples.f, samples.gradient, samples.per_interval, patches, planes, inv_s
    )


def losses(parts) -> torch.Tensor:
    weights = (random(*part.shape, seed=seed) for seed, part in enumerate(parts))
    return sum((weight * part).sum() for weight, part in zip(weights, parts, strict=True))


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize(("inv_s", "noise"), [(40.0, 0.05), (2000.0, 0.0)])
def test_rendering_and_its_derivatives_match_the_reference(scene, between, inv_s, noise):
    patches, _, _ = scene
    samples, planes, sources = rendered(scene, between, inv_s, noise)
    reference = pmni.volume_rendering.compositing._composite(
        samples, patches, planes, sources[2], pmni.volume_rendering.compositing.weights_torch
    )
    found = composite_by_kernels(samples, patches, planes, sources[2])
    assert float(reference[0].detach().max()) > 0.7
    assert_close(found, reference, CLOSE)
    assert_close(grad(losses(found), sources), grad(losses(reference), sources), CLOSE)


def test_spare_planes_do_nothing(scene):
    patches, _, _ = scene
    samples, planes, sources = rendered(scene, False, 40.0, 0.0)
    total = int(planes.offsets[-1])
    assert total < CAPACITY
    for spare in (samples.f, samples.gradient):
        spare.data[total:] = 1e30
    found = composite_by_kernels(samples, patches, planes, sources[2])
    assert all(torch.isfinite(part).all() for part in found)
    for part in grad(losses(found), sources[:2]):
        assert torch.isfinite(part).all()
        assert not part[total:].any()


def test_no_planes(scene):
    patches, grid, jitter = scene
    grid.values.fill_(1)
    step = torch.tensor(0.02, device=DEVICE)
    planes, needed = march_by_kernels(8, scene, step)
    assert int(needed) == 0
    assert not planes.valid.any()
    f = torch.zeros(8, *patches.m.shape[1:3], device=DEVICE, requires_grad=True)
    samples = Samples(f, torch.zeros(*f.shape, 3, device=DEVICE), True)
    found = composite_by_kernels(samples, patches, planes, jitter[0])
    assert not any(part.any() for part in found)
    assert not grad(losses(found), f)[0].any()


def test_double_precision_stays_with_the_reference(scene, monkeypatch):
    monkeypatch.setattr(kernels, "use_triton", lambda device: True)
    patches, _, _ = scene
    samples, planes, sources = rendered(scene, True, 40.0, 0.0)
    patches = Patches(*(part.double() for part in vars(patches).values()))
    double = Samples(samples.f.double(), samples.gradient.double(), True)
    single = planes.patch, planes.z.double(), planes.valid, planes.offsets
    image = composite(double, patches, Planes(*single), sources[2].double(), "auto")
    assert image.opacity.dtype == torch.float64
