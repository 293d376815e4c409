"""Random numbers in one launch: the twin is `training.rng`."""

import torch
import triton
import triton.language as tl
from jaxtyping import Int
from torch import Tensor

from pmni.kernels.constants import GOLDEN_RATIO, HASH_FACTOR_1, HASH_FACTOR_2, LOW_32_BITS
from pmni.kernels.devices import device_of

NUMBERS = 256
"""A program's."""
_FIRST, _SECOND = tl.constexpr(HASH_FACTOR_1), tl.constexpr(HASH_FACTOR_2)
_GOLDEN, _LOW = tl.constexpr(GOLDEN_RATIO), tl.constexpr(LOW_32_BITS)


def words(key: int, step: Int[Tensor, ""], count: int) -> Int[Tensor, " count"]:
    """As `training.rng.StepRng.bits`, of a stream's key."""
    out = torch.empty(count, dtype=torch.int64, device=step.device)
    if count:
        with device_of(step):
            _words[(triton.cdiv(count, NUMBERS),)](step, out, key, count, NUMBERS=NUMBERS)
    return out


@triton.jit
def _mixed(x):
    x = ((x ^ (x >> 16)) * _FIRST) & _LOW
    x = ((x ^ (x >> 15)) * _SECOND) & _LOW
    return x ^ (x >> 16)


@triton.jit
def word(key, step, place):
    """The number of a stream's key and a step at a place."""
    first = _mixed((_mixed((tl.load(step) ^ _GOLDEN) & _LOW) + key) & _LOW)
    return _mixed(_mixed((place + first) & _LOW) ^ _mixed(first ^ _GOLDEN))


@triton.jit(do_not_specialize=["key"])
def _words(step, out, key, count, NUMBERS: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * NUMBERS + tl.arange(0, NUMBERS)
    tl.store(out + place, word(key, step, place), mask=place < count)
