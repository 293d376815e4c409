"""Data classes that kernels share with their PyTorch reference implementations.

They hold tensors only, and importing them does not import Triton.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor


@dataclass(frozen=True)
class Patches:
    """P patches of h x w neighbouring pixels, each seen by one camera."""

    m: Float[Tensor, "P h w 3"]
    """K^-1 (u, v, 1) of each pixel: its ray in the camera frame, scaled to z = 1."""
    focal: Float[Tensor, "P 2"]
    """fx and fy, pixels."""
    rotation: Float[Tensor, "P 3 3"]
    """Camera to world."""
    centre: Float[Tensor, "P 3"]
    """Camera centre in the world."""


@dataclass(frozen=True)
class Planes:
    """M planes, patch after patch and front to back in each, then padding.

    Padding planes have patch 0, bound no valid interval, and their samples lie at the origin.
    """

    patch: Int[Tensor, " M"]
    """Index of the patch that a plane belongs to."""
    z: Float[Tensor, " M"]
    """z-depth of a plane in its camera."""
    valid: Bool[Tensor, " M"]
    """Whether a plane and the next one in the list bound an interval that is rendered."""
    offsets: Int[Tensor, " P1"]
    """Index of the first plane of each patch, and of the first padding plane (P + 1 numbers)."""


@dataclass(frozen=True)
class HashGridTensors:
    """A multi-resolution hash grid of L levels with F features each."""

    table: Float[Tensor, " T"]
    """All entries, level after level, each with F numbers."""
    layout: Int32[Tensor, "L 5"]
    """Each level's scale (bits of a float32), resolution, number of entries, offset, and whether
    its entries are hashed."""
    features: int
    """F."""
    active_levels: int
    """Number of levels that are evaluated; the features of finer levels are zero."""
    num_valid: Int[Tensor, ""] | None
    """Number of points that are not padding; None if all are valid."""


@dataclass(frozen=True)
class NarrowBandTensors:
    """C functions on a sparse grid of blocks around a surface, and on a dense grid elsewhere."""

    values: Float[Tensor, "C N"]
    """Values at the nodes of the sparse grid, block after block."""
    block_numbers: Int32[Tensor, " B"]
    """Number of each block of the box and of one more around it; -1 for inactive blocks."""
    background: Float[Tensor, "C n n n"]
    """Values at the nodes of the dense grid."""
    cells: int
    """Cells along a side of the sparse grid."""
    is_dense: bool
    """Whether the dense grid alone is read."""
