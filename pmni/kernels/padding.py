"""Number of points in a padded buffer, which only the device knows."""

import triton
import triton.language as tl


@triton.jit
def valid_count(num_valid, count):
    """The number of points that are not padding: `num_valid` (1), or `count` if that is None."""
    if num_valid is None:
        return count
    else:
        return tl.minimum(tl.load(num_valid).to(tl.int32), count)
