"""Kernels of rays through a narrow band against their reference implementations."""

import pytest
import torch

pytest.importorskip("triton")

from fixtures.analytic_sdfs import sphere
from fixtures.kernels import DEVICE, RAYS

import pmni.kernels.rays
from pmni.errors import DivergenceError
from pmni.kernels.rays import first_crossings, least_values
from pmni.sdf.closest_approach import HALVINGS, closest_approach
from pmni.sdf.narrow_band import resample
from pmni.sdf.sphere_tracing import REFINEMENTS, STEP_FACTOR, box_interval, trace

pytestmark = pytest.mark.usefixtures("reference_is_torch")


@pytest.fixture(autouse=True)
def _small_programs(monkeypatch):
    if DEVICE.type == "cpu":  # the interpreter's time is that of its programs
        monkeypatch.setattr(pmni.kernels.rays, "RAYS", RAYS)


def rays(seed: int, aim: float) -> tuple[torch.Tensor, ...]:
    """Rays from a few units away, some past the box, some that start within it; near and far."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.randn(RAYS, 3, generator=generator)
    distance = torch.rand(RAYS, 1, generator=generator) * 5
    origins = distance * origins / origins.norm(dim=-1, keepdim=True)
    targets = aim * torch.randn(RAYS, 3, generator=generator)
    directions = targets - origins
    directions = directions / directions.norm(dim=-1, keepdim=True)
    near, far = box_interval(origins, directions)
    return tuple(part.to(DEVICE) for part in (origins, directions, near, far))


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
