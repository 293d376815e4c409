"""Vectors of three numbers, (N, 3) in memory, loaded and stored by kernels."""

import triton
import triton.language as tl


@triton.jit
def load3(pointer, index, mask):
    """The three numbers of rows; zero outside the mask."""
    x = tl.load(pointer + 3 * index, mask=mask, other=0.0)
    y = tl.load(pointer + 3 * index + 1, mask=mask, other=0.0)
    return x, y, tl.load(pointer + 3 * index + 2, mask=mask, other=0.0)


@triton.jit
def store3(pointer, index, x, y, z, mask):
    """Store three numbers in rows inside the mask."""
    tl.store(pointer + 3 * index, x, mask=mask)
    tl.store(pointer + 3 * index + 1, y, mask=mask)
    tl.store(pointer + 3 * index + 2, z, mask=mask)
