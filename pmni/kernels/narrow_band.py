"""Values of functions on a narrow band at points, which other kernels use too."""

from typing import Any

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from pmni.kernels.constants import BLOCK
from pmni.kernels.devices import device_guard
from pmni.kernels.load_store import load3
from pmni.kernels.types import NarrowBandTensors

assert BLOCK == 4
POINTS = 128
"""Points of a program, one a thread."""

SIZES = ["cells", "side", "background_cells"]
"""Arguments for whose values Triton compiles no special kernels."""


def arguments(band: NarrowBandTensors) -> dict[str, Any]:
    """Keyword arguments by which kernels take a narrow band."""
    return {
        "values": band.values.contiguous(),
        "block_numbers": band.block_numbers,
        "background": band.background.contiguous(),
        "cells": band.cells,
        "side": band.cells // BLOCK + 3,
        "background_cells": band.background.shape[-1] - 1,
        "DENSE": band.is_dense,
    }


def interpolate(band: NarrowBandTensors, x: Float[Tensor, "N 3"]) -> Float[Tensor, "C N"]:
    """Values of C functions at points: trilinear in the narrow band's grid, or in the dense one."""
    channels, nodes = band.values.shape
    result = x.new_empty(channels, len(x))
    if len(x):
        with device_guard(x):
            _sample[(triton.cdiv(len(x), POINTS), channels)](
                x.contiguous(),
                result,
                len(x),
                nodes,
                POINTS=POINTS,
                **arguments(band),
            )
    return result


@triton.jit(do_not_specialize=["count", "nodes", *SIZES])
def _sample(
    xs,
    result,
    count,
    nodes,
    values,
    block_numbers,
    background,
    cells,
    side,
    background_cells,
    DENSE: tl.constexpr,
    POINTS: tl.constexpr,
):
    """result (C, count): f at xs (count, 3), and of the other functions; a program for
    each channel."""
    point = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    channel = tl.program_id(1).to(tl.int64)
    in_range = point < count
    x, y, z = load3(xs, point, in_range)
    row_length = background_cells + 1
    fine, coarse = (
        values + channel * nodes,
        background + channel * row_length * row_length * row_length,
    )
    f = band_value(
        x, y, z, in_range, fine, block_numbers, coarse, cells, side, background_cells, DENSE
    )
    tl.store(result + channel * count + point, f, mask=in_range)


@triton.jit
def band_value(
    x,
    y,
    z,
    mask,
    values,
    block_numbers,
    background,
    cells,
    side,
    background_cells,
    DENSE: tl.constexpr,
):
    """f at points (B,) of which `mask` are read: as NarrowBandSDF.__call__."""
    SIZE: tl.constexpr = 4  # BLOCK
    fine = tl.zeros_like(x)
    is_fine = mask
    if not DENSE:
        # The cell around the point, in the band's grid.
        u, v, w = (x + 1) * (cells / 2), (y + 1) * (cells / 2), (z + 1) * (cells / 2)
        i = tl.minimum(tl.maximum(tl.floor(u), -SIZE), cells + SIZE)
        j = tl.minimum(tl.maximum(tl.floor(v), -SIZE), cells + SIZE)
        k = tl.minimum(tl.maximum(tl.floor(w), -SIZE), cells + SIZE)
        u, v, w = u - i, v - j, w - k
        # From here on counted from one block before the first, so that no index is negative.
        i, j, k = i.to(tl.int32) + SIZE, j.to(tl.int32) + SIZE, k.to(tl.int32) + SIZE
        for corner in tl.static_range(8):
            a, b, c = i + (corner // 4), j + (corner // 2) % 2, k + corner % 2
            A, B = tl.minimum(a // SIZE, side - 1), tl.minimum(b // SIZE, side - 1)
            block = (A * side + B) * side + tl.minimum(c // SIZE, side - 1)
            number = tl.load(block_numbers + block, mask=mask, other=-1)
            is_fine = is_fine & (number >= 0)
            node = number * SIZE * SIZE * SIZE + (a % SIZE * SIZE + b % SIZE) * SIZE + c % SIZE
            value = tl.load(values + node, mask=number >= 0, other=0.0)
            weight = (u if corner // 4 else 1 - u) * (v if (corner // 2) % 2 else 1 - v)
            fine += weight * (w if corner % 2 else 1 - w) * value
    is_coarse = mask if DENSE else mask & (is_fine == 0)
    # Beyond the band: the cell in the dense grid; constant beyond the box.
    last_node = background_cells.to(tl.float32)
    u = tl.minimum(tl.maximum((x + 1) * (background_cells / 2), 0), last_node)
    v = tl.minimum(tl.maximum((y + 1) * (background_cells / 2), 0), last_node)
    w = tl.minimum(tl.maximum((z + 1) * (background_cells / 2), 0), last_node)
    i = tl.minimum(u.to(tl.int32), background_cells - 1)
    j = tl.minimum(v.to(tl.int32), background_cells - 1)
    k = tl.minimum(w.to(tl.int32), background_cells - 1)
    u, v, w = u - i, v - j, w - k
    coarse = tl.zeros_like(x)
    row_length = background_cells + 1
    for corner in tl.static_range(8):
        a, b, c = i + (corner // 4), j + (corner // 2) % 2, k + corner % 2
        value = tl.load(
            background + (a * row_length + b) * row_length + c, mask=is_coarse, other=0.0
        )
        weight = (u if corner // 4 else 1 - u) * (v if (corner // 2) % 2 else 1 - v)
        coarse += weight * (w if corner % 2 else 1 - w) * value
    return tl.where(is_coarse, coarse, fine)
