"""How many of the points that there is room for are real: known on the device alone."""

import triton
import triton.language as tl


@triton.jit
def number_of(real, count):
    """The number of points: `real` (1), or all `count` of them if that is None."""
    if real is None:
        return count
    else:
        return tl.minimum(tl.load(real).to(tl.int32), count)
