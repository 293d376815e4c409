"""The kernel of random bits against its reference implementation."""

import pytest
import torch

pytest.importorskip("triton")

from fixtures.kernels import DEVICE

import pmni.kernels.random_bits
from pmni.training.rng import StepRng, stream_key

pytestmark = pytest.mark.usefixtures("reference_is_torch")


@pytest.mark.parametrize(
    ("seed", "stream", "step", "count"),
    [(0, 0, 0, 1), (2**33 + 7, 5, 29999, 700), (3, 1, 2**31, 256)],
)
def test_numbers(seed, stream, step, count):
    one = StepRng(seed, torch.tensor(step, device=DEVICE))
    found = pmni.kernels.random_bits.random_bits(stream_key(seed, stream), one.step, count)
    assert torch.equal(found, one.bits(stream, count))
