"""Kernels of volume rendering against their reference implementations."""

import pytest
import torch
from fixtures.training import occupancy_grid
from torch.autograd import grad

pytest.importorskip("triton")

from fixtures.rendering import SphereSDF, make_patches

import pmni.kernels.compositing
import pmni.kernels.directional
import pmni.kernels.marching
from pmni import kernels
from pmni.kernels.types import Patches, Planes
from pmni.volume_rendering.compositing import composite
from pmni.volume_rendering.gradients import Samples, directional_gradient
from pmni.volume_rendering.marching import march, march_padded, plane_points
from pmni.volume_rendering.occupancy import OccupancyGrid

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CLOSE = {"atol": 5e-5, "rtol": 0}
"""In units of the largest value expected."""
ROOM = 96
REACH = torch.tensor(0.045, device=DEVICE)


@pytest.fixture(autouse=True)
def reference_is_torch(monkeypatch):
    monkeypatch.setenv(kernels.BACKEND_VARIABLE, "torch")
    if DEVICE.type == "cpu":  # the interpreter's time is that of its programs
        monkeypatch.setattr(pmni.kernels.compositing, "RAYS", 64)


def moved(patches: Patches) -> Patches:
    parts = (patches.m, patches.focal, patches.rotation, patches.centre)
    return Patches(*(part.float().contiguous().to(DEVICE) for part in parts))


@pytest.fixture(params=[1, 2, 3, 5])
def scene(request) -> tuple[Patches, OccupancyGrid, torch.Tensor]:
    """Patches that see a sphere's middle, its rim and nothing, and jitters."""
    pixels = ((63, 47), (2, 2), (50, 40), (96, 22), (98, 80))
    patches = moved(make_patches(pixels=pixels, size=request.param))
    grid = occupancy_grid(64, 0.03, DEVICE)
    grid.refresh(SphereSDF())
    return patches, grid, torch.tensor([0.1, 0.9, 0.5, 0.0, 0.3], device=DEVICE)


def planes_within(scene, room: int) -> Planes:
    patches, grid, jitter = scene
    return march_padded(room, patches, grid, REACH, torch.tensor(0.02, device=DEVICE), jitter)[0]


def march_by_kernels(room: int, scene, step: torch.Tensor) -> tuple[Planes, torch.Tensor]:
    patches, grid, jitter = scene
    max_slope = grid.settings.max_slope
    return pmni.kernels.marching.march_padded(
        room, patches, grid.values, max_slope, REACH, step, jitter
    )


def assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        most = max(float(b.detach().abs().max()), 1e-3) if b.numel() else 1.0
        torch.testing.assert_close(a / most, b / most, **CLOSE)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


# -------------------------------------------------------------------------------------- marching
@pytest.mark.parametrize("step", [0.02, 0.004, 0.001])  # one look at a ray, two, and many
@pytest.mark.parametrize("room", [3000, 700, 31, 1])
def test_planes_match_the_reference(scene, step, room):
    patches, grid, jitter = scene
    step = torch.tensor(step, device=DEVICE)
    reference, needed = march_padded(room, patches, grid, REACH, step, jitter)
    found, count = march_by_kernels(room, scene, step)
    assert int(count) == int(needed)
    assert len(found.z) == len(reference.z) == room
    for name in ("patch", "valid", "offsets"):
        assert torch.equal(getattr(found, name), getattr(reference, name)), name
    torch.testing.assert_close(found.z, reference.z, atol=1e-5, rtol=0)


def test_planes_within_are_those_that_march_finds_and_spare_ones(scene):
    patches, grid, jitter = scene
    step = torch.tensor(0.02, device=DEVICE)
    every = march(patches, grid, REACH, step, jitter)
    total = len(every.z)
    assert 10 < total < ROOM
    planes = planes_within(scene, ROOM)
    for name in ("patch", "z", "valid"):
        assert torch.equal(getattr(planes, name)[:total], getattr(every, name)), name
        assert not getattr(planes, name)[total:].any(), name
    assert torch.equal(planes.offsets, every.offsets)
    assert int(planes.offsets[2] - planes.offsets[1]) == 0, "the second patch misses the object"
    cut, needed = march_padded(12, patches, grid, REACH, step, jitter)
    assert int(needed) == total
    assert torch.equal(cut.z, every.z[:12])
    assert not cut.valid[-1], "what is cut off bounds no interval"
    assert int(cut.offsets[-1]) == 12


def test_points_and_their_derivatives_match_the_reference(scene):
    patches, _, _ = scene
    planes = planes_within(scene, ROOM)
    sources = [patches.rotation.requires_grad_(), patches.centre.requires_grad_()]
    reference, found = (way(patches, planes) for way in (plane_points, by_kernels()))
    assert not found[planes.offsets[-1] :].any()
    torch.testing.assert_close(found, reference, atol=2e-6, rtol=0)
    weights = random(*reference.shape, seed=0)
    assert_close(grad(found, sources, weights), grad(reference, sources, weights))


def by_kernels():
    return pmni.kernels.marching.plane_points


# ------------------------------------------------------------------------------------- gradients
def test_directional_gradients_and_their_derivatives_match_the_reference(scene):
    patches, _, _ = scene
    if patches.m.shape[1] == 1:
        pytest.skip("needs neighbours")
    planes = planes_within(scene, ROOM)
    f = random(ROOM, *patches.m.shape[1:3], seed=0).requires_grad_()
    reference = directional_gradient(f, patches, planes)
    found = pmni.kernels.directional.directional_gradient(f, patches, planes)
    on = planes.valid
    assert_close([found[on]], [reference[on]])
    assert not found[~on].any()
    weights = random(*reference.shape, seed=1) * on[:, None, None, None]
    assert_close(grad(found, f, weights), grad(reference, f, weights))


# ----------------------------------------------------------------------------------- compositing
def rendered(scene, between: bool, inv_s: float, noise: float):
    """Samples of a noisy sphere, their planes, and what their rendering depends on."""
    patches, _, _ = scene
    planes = planes_within(scene, ROOM)
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
    assert_close(found, reference)
    assert_close(grad(losses(found), sources), grad(losses(reference), sources))


def test_spare_planes_do_nothing(scene):
    patches, _, _ = scene
    samples, planes, sources = rendered(scene, False, 40.0, 0.0)
    total = int(planes.offsets[-1])
    assert total < ROOM
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
