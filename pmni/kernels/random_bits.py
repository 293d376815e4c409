"""Counter-based random bits in one launch; reference implementation: `training.rng`."""

import torch
import triton
import triton.language as tl
from jaxtyping import Int
from torch import Tensor

from pmni.kernels.constants import GOLDEN_RATIO, HASH_FACTOR_1, HASH_FACTOR_2, LOW_32_BITS
from pmni.kernels.devices import device_guard

SAMPLES = 256
"""Numbers that a program draws."""
_FIRST, _SECOND = tl.constexpr(HASH_FACTOR_1), tl.constexpr(HASH_FACTOR_2)
_GOLDEN, _LOW = tl.constexpr(GOLDEN_RATIO), tl.constexpr(LOW_32_BITS)


def random_bits(key: int, step: Int[Tensor, ""], count: int) -> Int[Tensor, " count"]:
    """Uniform integers in [0, 2^32) of a stream, as `training.rng.StepRng.bits`."""
    out = torch.empty(count, dtype=torch.int64, device=step.device)
    if count:
        with device_guard(step):
            _random_bits[(triton.cdiv(count, SAMPLES),)](step, out, key, count, SAMPLES=SAMPLES)
    return out


@triton.jit
def _hash32(x):
    x = ((x ^ (x >> 16)) * _FIRST) & _LOW
    x = ((x ^ (x >> 15)) * _SECOND) & _LOW
    return x ^ (x >> 16)


@triton.jit
def random_bits_at(key, step, index):
    """Random bits of a stream in a step at an index."""
    counter = _hash32((_hash32((tl.load(step) ^ _GOLDEN) & _LOW) + key) & _LOW)
    return _hash32(_hash32((index + counter) & _LOW) ^ _hash32(counter ^ _GOLDEN))


@triton.jit(do_not_specialize=["key"])
def _random_bits(step, out, key, count, SAMPLES: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES)
    tl.store(out + index, random_bits_at(key, step, index), mask=index < count)
