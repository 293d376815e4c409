"""Patches drawn and gathered in one launch; reference: `training.patches.PatchSampler.draw`."""

import torch
import triton
import triton.language as tl
from jaxtyping import Int
from torch import Tensor

from pmni.kernels.devices import device_guard
from pmni.kernels.random_bits import random_bits_at

PIXELS = 256
"""Pixels of a program."""


def draw_patches(
    candidates: tuple[Tensor, Tensor],
    counts: tuple[int, int],
    step: Int[Tensor, ""],
    keys: tuple[int, int, int],
    images: tuple[Tensor, Tensor, Tensor],
    cameras: tuple[Tensor, Tensor],
    patch: int,
) -> tuple[Tensor, ...]:
    """The fields of a `PatchBatch`, in their order.

    Args:
        candidates: the first pixels of the patches in the foreground and in the background.
        counts: how many of each are draw_patches.
        step: the step for which random numbers are draw_patches.
        keys: of the streams of random numbers of foreground, background and jitter.
        images: normals (V, H, W, 3), masks and distances (V, H, W).
        cameras: inverse intrinsics (V, 3, 3), focal lengths (V, 2).
        patch: pixels along a side.
    """
    assert all(tensor.is_contiguous() for tensor in (*candidates, *images, *cameras))
    device = step.device
    count = sum(counts)
    view = torch.empty(count, dtype=torch.int64, device=device)
    focal, jitter = torch.empty(count, 2, device=device), torch.empty(count, device=device)
    shape = count, patch, patch
    pixels = torch.empty(*shape, 2, dtype=torch.int64, device=device)
    normal, m = (torch.empty(*shape, 3, device=device) for _ in range(2))
    mask, distance = (torch.empty(shape, device=device) for _ in range(2))
    outputs = view, pixels, normal, mask, distance, m, focal, jitter
    height, width = images[1].shape[1:]
    with device_guard(view):
        _draw[(triton.cdiv(mask.numel(), PIXELS),)](
            step,
            *candidates,
            *images,
            *cameras,
            *outputs,
            *keys,
            *counts,
            *map(len, candidates),
            height,
            width,
            PATCH=patch,
            PIXELS=PIXELS,
            enable_fp_fusion=False,
        )
    return outputs


@triton.jit(do_not_specialize=["key", "other_key", "jitter_key"])
def _draw(
    step,
    inside,
    outside,
    all_normals,
    all_masks,
    all_distances,
    inverses,
    focals,
    views,
    pixels,
    normals,
    masks,
    distances,
    ms,
    patch_focals,
    jitters,
    key,
    other_key,
    jitter_key,
    count,
    other_count,
    limit,
    other_limit,
    height,
    width,
    PATCH: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Gather the measurements at all pixels of the patches that are drawn."""
    index = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    patch, pixel = index // (PATCH * PATCH), index % (PATCH * PATCH)
    in_range = patch < count + other_count
    number = random_bits_at(key, step, patch) * limit >> 32
    other = random_bits_at(other_key, step, patch - count) * other_limit >> 32
    first = tl.load(inside + number, mask=in_range & (patch < count), other=0)
    first += tl.load(outside + other, mask=in_range & (patch >= count), other=0)
    pixel_index = first + pixel // PATCH * width + pixel % PATCH
    view, column, row = (
        first // (height * width),
        pixel_index % width,
        pixel_index // width % height,
    )
    tl.store(pixels + index * 2, column, mask=in_range)
    tl.store(pixels + index * 2 + 1, row, mask=in_range)
    tl.store(
        masks + index, tl.load(all_masks + pixel_index, mask=in_range, other=0.0), mask=in_range
    )
    tl.store(
        distances + index,
        tl.load(all_distances + pixel_index, mask=in_range, other=0.0),
        mask=in_range,
    )
    u, v = column.to(tl.float32), row.to(tl.float32)
    for axis in tl.static_range(3):
        normal = tl.load(all_normals + pixel_index * 3 + axis, mask=in_range, other=0.0)
        tl.store(normals + index * 3 + axis, normal, mask=in_range)
        row_start = inverses + view * 9 + axis * 3
        m = (
            tl.load(row_start, mask=in_range, other=0.0) * u
            + tl.load(row_start + 1, mask=in_range, other=0.0) * v
        )
        m += tl.load(row_start + 2, mask=in_range, other=0.0)
        tl.store(ms + index * 3 + axis, m, mask=in_range)
    once = in_range & (pixel == 0)
    tl.store(views + patch, view, mask=once)
    for axis in tl.static_range(2):
        focal = tl.load(focals + view * 2 + axis, mask=once, other=0.0)
        tl.store(patch_focals + patch * 2 + axis, focal, mask=once)
    jitter = (random_bits_at(jitter_key, step, patch) >> 8).to(tl.float32) * (1.0 / 16777216.0)
    tl.store(jitters + patch, jitter, mask=once)
