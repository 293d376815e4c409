"""Kernels of the marching of planes against their reference implementations."""

import pytest
import torch
from torch.autograd import grad

pytest.importorskip("triton")

from fixtures.kernels import DEVICE, assert_close, random
from fixtures.padded_planes import CAPACITY, CLOSE, TRUNCATION, march_by_kernels, planes_within

import pmni.kernels.marching
from pmni.volume_rendering.marching import march, march_padded, plane_points

pytestmark = pytest.mark.usefixtures("reference_is_torch")


@pytest.mark.parametrize("step", [0.02, 0.004, 0.001])  # one look at a ray, two, and many
@pytest.mark.parametrize("room", [3000, 700, 31, 1])
def test_planes_match_the_reference(scene, step, room):
    patches, grid, jitter = scene
    step = torch.tensor(step, device=DEVICE)
    reference, needed = march_padded(room, patches, grid, TRUNCATION, step, jitter)
    found, count = march_by_kernels(room, scene, step)
    assert int(count) == int(needed)
    assert len(found.z) == len(reference.z) == room
    for name in ("patch", "valid", "offsets"):
        assert torch.equal(getattr(found, name), getattr(reference, name)), name
    torch.testing.assert_close(found.z, reference.z, atol=1e-5, rtol=0)


def test_planes_within_are_those_that_march_finds_and_spare_ones(scene):
    patches, grid, jitter = scene
    step = torch.tensor(0.02, device=DEVICE)
    every = march(patches, grid, TRUNCATION, step, jitter)
    total = len(every.z)
    assert 10 < total < CAPACITY
    planes = planes_within(scene, CAPACITY)
    for name in ("patch", "z", "valid"):
        assert torch.equal(getattr(planes, name)[:total], getattr(every, name)), name
        assert not getattr(planes, name)[total:].any(), name
    assert torch.equal(planes.offsets, every.offsets)
    assert int(planes.offsets[2] - planes.offsets[1]) == 0, "the second patch misses the object"
    cut, needed = march_padded(12, patches, grid, TRUNCATION, step, jitter)
    assert int(needed) == total
    assert torch.equal(cut.z, every.z[:12])
    assert not cut.valid[-1], "what is cut off bounds no interval"
    assert int(cut.offsets[-1]) == 12


def test_points_and_their_derivatives_match_the_reference(scene):
    patches, _, _ = scene
    planes = planes_within(scene, CAPACITY)
    sources = [patches.rotation.requires_grad_(), patches.centre.requires_grad_()]
    reference, found = (
        way(patches, planes) for way in (plane_points, pmni.kernels.marching.plane_points)
    )
    assert not found[planes.offsets[-1] :].any()
    torch.testing.assert_close(found, reference, atol=2e-6, rtol=0)
    weights = random(*reference.shape, seed=0)
    assert_close(grad(found, sources, weights), grad(reference, sources, weights), CLOSE)
