"""The pixels of a mask as a graph: edges join a pixel to its right and its lower neighbour."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage


@dataclass(frozen=True)
class PixelGraph:
    """N pixels in row-major order and E edges (p, q); first those along u, then those along v."""

    p: Int[np.ndarray, " E"]
    """The left or upper pixel of each edge."""
    q: Int[np.ndarray, " E"]
    """The right or lower pixel of each edge."""
    axis: Int[np.ndarray, " E"]
    """0: the edge runs along u (a row of the image); 1: along v (a column)."""
    part: Int[np.ndarray, " N"]
    """The connected part of the mask that each pixel belongs to, from 0."""

    @property
    def pixels(self) -> int:
        """N."""
        return len(self.part)

    def centred_by_part(self, x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """x minus its median in each part."""
        labels = np.arange(self.part.max(initial=-1) + 1)
        return x - np.atleast_1d(ndimage.median(x, self.part, labels))[self.part]


def pixel_graph(mask: Bool[np.ndarray, "H W"]) -> PixelGraph:
    """The graph of a mask's pixels; parts are 4-connected."""
    number = np.zeros(mask.shape, int)
    number[mask] = np.arange(np.count_nonzero(mask))
    along_u = mask[:, :-1] & mask[:, 1:]
    along_v = mask[:-1] & mask[1:]
    return PixelGraph(
        p=np.concatenate([number[:, :-1][along_u], number[:-1][along_v]]),
        q=np.concatenate([number[:, 1:][along_u], number[1:][along_v]]),
        axis=np.repeat([0, 1], [np.count_nonzero(along_u), np.count_nonzero(along_v)]),
        part=ndimage.label(mask)[0][mask].astype(int) - 1,
    )
