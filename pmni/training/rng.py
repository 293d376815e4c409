"""Counter-based random numbers: a function of seed, step, stream and index, equal on all devices.

A counter is hashed, so that a step has no generator state and the host never waits for the device.
"""

from enum import IntEnum
from functools import cache
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pmni import kernels
from pmni.kernels.constants import GOLDEN_RATIO, HASH_FACTOR_1, HASH_FACTOR_2, LOW_32_BITS


class Stream(IntEnum):
    """Independent sequences of random numbers. Losses of other packages use numbers from 1000."""

    FOREGROUND_PATCH = 0
    BACKGROUND_PATCH = 1
    JITTER = 2
    CORRECTION_NODE = 3
    CORRECTION_OFFSET = 4
    OTHER_VIEW = 5
    FIT_NODE = 6
    FIT_OFFSET = 7
    FIT_BOX = 8


class StepRng:
    """The random numbers of one step; `step` is on the device on which they are drawn."""

    def __init__(self, seed: int, step: Int[Tensor, ""]) -> None:
        self.seed, self.step = seed, step

    def bits(self, stream: int, count: int) -> Int[Tensor, " count"]:
        """Uniform integers in [0, 2^32)."""
        key = stream_key(self.seed, stream)
        if kernels.use_triton(self.step.device):
            from pmni.kernels.random_bits import random_bits

            return random_bits(key, self.step, count)
        counter = hash32(hash32((self.step ^ GOLDEN_RATIO) & LOW_32_BITS) + key & LOW_32_BITS)
        index = torch.arange(count, device=self.step.device)
        return hash32(hash32(index + counter & LOW_32_BITS) ^ hash32(counter ^ GOLDEN_RATIO))

    def uniform(self, stream: int, *shape: int) -> Float[Tensor, "..."]:
        """Uniform numbers in [0, 1)."""
        bits = self.bits(stream, torch.Size(shape).numel())
        return ((bits >> 8).float() * 2**-24).view(shape)

    def integers(self, limit: int, stream: int, count: int) -> Int[Tensor, " count"]:
        """Uniform integers in [0, limit), where limit is at most 2^31."""
        return self.bits(stream, count) * limit >> 32


Bits = TypeVar("Bits", int, Tensor)


def hash32(x: Bits) -> Bits:
    """A permutation of the integers in [0, 2^32) in which every bit depends on all."""
    x = (x ^ (x >> 16)) * HASH_FACTOR_1 & LOW_32_BITS
    x = (x ^ (x >> 15)) * HASH_FACTOR_2 & LOW_32_BITS
    return x ^ (x >> 16)


@cache
def stream_key(seed: int, stream: int) -> int:
    """The number by which a stream of a seed differs from all others."""
    high = hash32((seed >> 32) + stream * GOLDEN_RATIO + HASH_FACTOR_1 & LOW_32_BITS)
    return hash32((seed & LOW_32_BITS) ^ high)
