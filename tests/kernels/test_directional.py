"""The kernel of directional gradients against its reference implementation."""

import pytest
from torch.autograd import grad

pytest.importorskip("triton")

from fixtures.kernels import assert_close, random
from fixtures.padded_planes import CAPACITY, CLOSE, planes_within

import pmni.kernels.directional
from pmni.volume_rendering.gradients import directional_gradient

pytestmark = pytest.mark.usefixtures("reference_is_torch")


def test_directional_gradients_and_their_derivatives_match_the_reference(scene):
    patches, _, _ = scene
    if patches.m.shape[1] == 1:
        pytest.skip("needs neighbours")
    planes = planes_within(scene, CAPACITY)
    f = random(CAPACITY, *patches.m.shape[1:3], seed=0).requires_grad_()
    reference = directional_gradient(f, patches, planes)
    found = pmni.kernels.directional.directional_gradient(f, patches, planes)
    on = planes.valid
    assert_close([found[on]], [reference[on]], CLOSE)
    assert not found[~on].any()
    weights = random(*reference.shape, seed=1) * on[:, None, None, None]
    assert_close(grad(found, f, weights), grad(reference, f, weights), CLOSE)
