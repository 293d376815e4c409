"""Held-out blocks of pixels, which no stage may fit."""

import numpy as np
from jaxtyping import Bool

BLOCK = 8
"""Side of a block, pixels: errors of normals are correlated over a few pixels, so that the
neighbours of a single pixel would predict it."""


def heldout_blocks(masks: Bool[np.ndarray, "V H W"], fraction: float) -> Bool[np.ndarray, "V H W"]:
    """Pixels of a random fraction of the blocks of each view that show the object.

    The choice depends on the masks of all views of a capture only, so that it is the same in every
    stage. At least one block of each view, unless `fraction` is 0.
    """
    views, height, width = masks.shape
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    padded = np.zeros((views, rows * BLOCK, columns * BLOCK), bool)
    padded[:, :height, :width] = masks
    occupied = padded.reshape(views, rows, BLOCK, columns, BLOCK).max((2, 4))
    heldout = np.zeros_like(occupied)
    for view in range(views):
        blocks = np.argwhere(occupied[view])
        order = np.random.default_rng(view).permutation(len(blocks))
        row, column = blocks[order[: int(np.ceil(fraction * len(blocks)))]].T
        heldout[view, row, column] = True
    return heldout.repeat(BLOCK, 1).repeat(BLOCK, 2)[:, :height, :width]
