"""Vectors of three numbers, (N, 3) in memory, read and written by kernels."""

import triton
import triton.language as tl


@triton.jit
def load3(pointer, index, wanted):
    """The three numbers of rows; zero where not wanted."""
    x = tl.load(pointer + 3 * index, mask=wanted, other=0.0)
    y = tl.load(pointer + 3 * index + 1, mask=wanted, other=0.0)
    return x, y, tl.load(pointer + 3 * index + 2, mask=wanted, other=0.0)


@triton.jit
def store3(pointer, index, x, y, z, wanted):
    """The three numbers of rows, where wanted."""
    tl.store(pointer + 3 * index, x, mask=wanted)
    tl.store(pointer + 3 * index + 1, y, mask=wanted)
    tl.store(pointer + 3 * index + 2, z, mask=wanted)
