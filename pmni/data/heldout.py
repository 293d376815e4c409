"""Blocks of pixels that no stage may fit, so that surfaces can be compared by them."""

import numpy as np
from jaxtyping import Bool

BLOCK = 8
"""Pixels along a side: errors of normals are alike over a few pixels, so that the neighbours of a
single pixel would tell what it shows."""


def heldout_blocks(masks: Bool[np.ndarray, "V H W"], fraction: float) -> Bool[np.ndarray, "V H W"]:
    """The pixels of a random part of the blocks of each view that show the object.

    The choice depends on nothing else than the masks of all views of a capture, so that every stage
    makes the same one. At least one block of each view, unless `fraction` is 0.
    """
    views, height, width = masks.shape
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    padded = np.zeros((views, rows * BLOCK, columns * BLOCK), bool)
    padded[:, :height, :width] = masks
    shown = padded.reshape(views, rows, BLOCK, columns, BLOCK).max((2, 4))
    chosen = np.zeros_like(shown)
    for view in range(views):
        places = np.argwhere(shown[view])
        random = np.random.default_rng(view).permutation(len(places))
        row, column = places[random[: int(np.ceil(fraction * len(places)))]].T
        chosen[view, row, column] = True
    return chosen.repeat(BLOCK, 1).repeat(BLOCK, 2)[:, :height, :width]
