"""Random numbers as a function of seed, step, stream and place alone, the same on every device.

A counter is hashed, so a step needs no state of a generator, and nothing has to wait for the host.
"""

from enum import IntEnum
from functools import cache
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pmni import kernels

LOW = 0xFFFFFFFF
"""The low 32 bits."""
GOLDEN = 0x9E3779B9
FIRST, SECOND = 0x7FEB352D, 0x846CA68B
"""Factors of the hash `lowbias32` (C. Wellons, hash-prospector, 2018)."""


class Stream(IntEnum):
    """What numbers are drawn for."""

    FOREGROUND = 0
    BACKGROUND = 1
    JITTER = 2
    ANCHOR_NODE = 3
    ANCHOR_SHIFT = 4
    OTHER_VIEW = 5
    FIT_NODE = 6
    FIT_SHIFT = 7
    FIT_ANYWHERE = 8


class Draws:
    """The draws of a step. Each stream is independent of the others."""

    def __init__(self, seed: int, step: Int[Tensor, ""]) -> None:
        self.seed, self.step = seed, step

    def words(self, stream: int, count: int) -> Int[Tensor, "count"]:
        """Uniform integers in [0, 2^32)."""
        key = stream_key(self.seed, stream)
        if kernels.chosen(self.step.device):
            from pmni.kernels.draws import words

            return words(key, self.step, count)
        first = mixed(mixed((self.step ^ GOLDEN) & LOW) + key & LOW)
        place = torch.arange(count, device=self.step.device)
        return mixed(mixed(place + first & LOW) ^ mixed(first ^ GOLDEN))

    def uniform(self, stream: int, *shape: int) -> Float[Tensor, "..."]:
        """Uniform in [0, 1)."""
        words = self.words(stream, torch.Size(shape).numel())
        return ((words >> 8).float() * 2**-24).view(shape)

    def below(self, limit: int, stream: int, count: int) -> Int[Tensor, "count"]:
        """Uniform integers in [0, limit), which is at most 2^31."""
        return self.words(stream, count) * limit >> 32


Words = TypeVar("Words", int, Tensor)


def mixed(x: Words) -> Words:
    """A permutation of the integers in [0, 2^32) in which every bit depends on all."""
    x = (x ^ (x >> 16)) * FIRST & LOW
    x = (x ^ (x >> 15)) * SECOND & LOW
    return x ^ (x >> 16)


@cache
def stream_key(seed: int, stream: int) -> int:
    """What sets a stream of a seed apart."""
    high = mixed((seed >> 32) + stream * GOLDEN + FIRST & LOW)
    return mixed((seed & LOW) ^ high)
