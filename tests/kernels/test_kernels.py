"""Kernels of a narrow band against their reference implementations; without a GPU, interpreted."""

import pytest
import torch

pytest.importorskip("triton")

from fixtures.analytic_sdfs import sphere, torus

import pmni.kernels.rays
from pmni import kernels
from pmni.errors import DivergenceError, InputError
from pmni.kernels.narrow_band import interpolate
from pmni.kernels.rays import first_crossings, least_values
from pmni.sdf.closest_approach import HALVINGS, closest_approach
from pmni.sdf.narrow_band import NarrowBandSDF, resample
from pmni.sdf.sphere_tracing import REFINEMENTS, STEP_FACTOR, box_interval, trace

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
COUNT = 100_000 if DEVICE.type == "cuda" else 64


@pytest.fixture(autouse=True)
def reference_is_torch(monkeypatch):
    monkeypatch.setenv(kernels.BACKEND_VARIABLE, "torch")
    if DEVICE.type == "cpu":  # the interpreter's time is that of its programs
        monkeypatch.setattr(pmni.kernels.rays, "RAYS", COUNT)


@pytest.fixture(scope="module", params=[32, 128])
def band(request) -> NarrowBandSDF:
    """A dense grid, and one with blocks that are off."""
    return resample(torus(0.55, 0.25), request.param, DEVICE, sweeps=4)


def rays(seed: int, aim: float) -> tuple[torch.Tensor, ...]:
    """Rays from a few units away, some past the box, some that start within it; near and far."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.randn(COUNT, 3, generator=generator)
    distance = torch.rand(COUNT, 1, generator=generator) * 5
    origins = distance * origins / origins.norm(dim=-1, keepdim=True)
    targets = aim * torch.randn(COUNT, 3, generator=generator)
    directions = targets - origins
    directions = directions / directions.norm(dim=-1, keepdim=True)
    near, far = box_interval(origins, directions)
    return tuple(part.to(DEVICE) for part in (origins, directions, near, far))


def test_values_and_gradients_match_the_reference(band):
    x = 1.86 * torch.rand(COUNT, 3, generator=torch.Generator().manual_seed(3)) - 0.93
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


@pytest.mark.parametrize("most_steps", [None, 6])
def test_rays_meet_the_surface_where_the_reference_says(band, most_steps):
    origins, directions, near, far = rays(0, 0.4)
    reference = trace(band, origins, directions, near, far, 5e-3, most_steps)
    found = first_crossings(
        band.kernel_tensors(),
        origins,
        directions,
        near,
        far,
        5e-3,
        most_steps,
        STEP_FACTOR,
        REFINEMENTS,
    )
    assert 0.1 < reference.mask.float().mean() < 0.9
    # A ray that just grazes may fall to either side by rounding.
    assert ((~found.isnan()) != reference.mask).float().mean() <= 1e-3
    both = reference.mask & ~found.isnan()
    off = (found[both] - reference.distance[both]).abs()
    assert (off < 2e-5).float().mean() >= 0.999


def test_rays_come_nearest_where_the_reference_says(band):
    origins, directions, near, far = rays(1, 0.6)
    crossing = near < far
    assert not crossing.all()
    step = 2.5 * band.grid.spacing
    at, least = least_values(band.kernel_tensors(), origins, directions, near, far, step, HALVINGS)
    reference_at, reference_least = closest_approach(band, origins, directions, near, far, step)
    values = band(origins + at[:, None] * directions)
    torch.testing.assert_close(values[crossing], least[crossing], atol=2e-4, rtol=0)
    # By rounding a march may step over a minimum, or take the other of two that are equally low:
    # far from the surface all values are.
    assert ((least - reference_least).abs() < 2e-4)[crossing].float().mean() >= 0.998
    near_it = crossing & (reference_least < 2 * band.grid.spacing)
    assert near_it.float().mean() > 0.3
    assert ((at - reference_at).abs() < 1e-4)[near_it].float().mean() > 0.95


def test_a_ray_that_starts_inside_hits_there(band):
    inside = torch.tensor([[0.55, 0.0, 0.0]], device=DEVICE)
    up = torch.tensor([[0.0, 0.0, 1.0]], device=DEVICE)
    near, far = torch.tensor([0.1], device=DEVICE), torch.tensor([1.0], device=DEVICE)
    found = first_crossings(
        band.kernel_tensors(), inside, up, near, far, 5e-3, None, STEP_FACTOR, REFINEMENTS
    )
    assert float(found) == pytest.approx(0.1)


def test_no_rays_and_values_that_are_not_numbers(band):
    none = torch.zeros(0, 3, device=DEVICE)
    empty = torch.zeros(0, device=DEVICE)
    ways = (5e-3, None, STEP_FACTOR, REFINEMENTS)
    assert len(first_crossings(band.kernel_tensors(), none, none, empty, empty, *ways)) == 0
    broken = resample(sphere(0.5), 32, DEVICE, sweeps=0)
    broken.background.values[8] = torch.nan
    with pytest.raises(DivergenceError, match="non-finite"):
        first_crossings(broken.kernel_tensors(), *rays(2, 0.3), *ways)


def test_which_run(monkeypatch):
    assert not kernels.use_triton(torch.device("cuda"))
    monkeypatch.setenv(kernels.BACKEND_VARIABLE, "fast")
    with pytest.raises(InputError, match="PMNI_KERNELS=fast: give triton or torch"):
        kernels.use_triton(torch.device("cuda"))
    monkeypatch.setenv(kernels.BACKEND_VARIABLE, "triton")
    assert kernels.use_triton(torch.device("cuda"))
    assert not kernels.use_triton(torch.device("cpu"))
