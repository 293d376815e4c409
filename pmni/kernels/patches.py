"""Patches drawn and read in one launch: the twin is `training.patches.PatchSampler.draw`."""

import torch
import triton
import triton.language as tl
from jaxtyping import Int
from torch import Tensor

from pmni.kernels.devices import device_of
from pmni.kernels.draws import word

PIXELS = 256
"""A program's."""


def drawn(
    places: tuple[Tensor, Tensor],
    counts: tuple[int, int],
    step: Int[Tensor, ""],
    keys: tuple[int, int, int],
    images: tuple[Tensor, Tensor, Tensor],
    cameras: tuple[Tensor, Tensor],
    patch: int,
) -> tuple[Tensor, ...]:
    """The fields of a `PatchBatch`, in their order.

    Args:
        places: the first pixels of the patches in the foreground and in the background.
        counts: how many of each are drawn.
        step: the step for which random numbers are drawn.
        keys: of the streams of random numbers of foreground, background and jitter.
        images: normals (V, H, W, 3), masks and distances (V, H, W).
        cameras: inverse intrinsics (V, 3, 3), focal lengths (V, 2).
        patch: pixels along a side.
    """
    assert all(tensor.is_contiguous() for tensor in (*places, *images, *cameras))
    device = step.device
    count = sum(counts)
    view = torch.empty(count, dtype=torch.int64, device=device)
    focal, jitter = torch.empty(count, 2, device=device), torch.empty(count, device=device)
    shape = count, patch, patch
    pixels = torch.empty(*shape, 2, dtype=torch.int64, device=device)
    normal, m = (torch.empty(*shape, 3, device=device) for _ in range(2))
    mask, distance = (torch.empty(shape, device=device) for _ in range(2))
    found = view, pixels, normal, mask, distance, m, focal, jitter
    height, width = images[1].shape[1:]
    with device_of(view):
        _draw[(triton.cdiv(mask.numel(), PIXELS),)](
            step,
            *places,
            *images,
            *cameras,
            *found,
            *keys,
            *counts,
            *map(len, places),
            height,
            width,
            PATCH=patch,
            PIXELS=PIXELS,
            enable_fp_fusion=False,
        )
    return found


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
    own_focals,
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
    """Each pixel of all patches reads what its patch has drawn."""
    place = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    patch, pixel = place // (PATCH * PATCH), place % (PATCH * PATCH)
    real = patch < count + other_count
    number = word(key, step, patch) * limit >> 32
    other = word(other_key, step, patch - count) * other_limit >> 32
    first = tl.load(inside + number, mask=real & (patch < count), other=0)
    first += tl.load(outside + other, mask=real & (patch >= count), other=0)
    here = first + pixel // PATCH * width + pixel % PATCH
    view, column, row = first // (height * width), here % width, here // width % height
    tl.store(pixels + place * 2, column, mask=real)
    tl.store(pixels + place * 2 + 1, row, mask=real)
    tl.store(masks + place, tl.load(all_masks + here, mask=real, other=0.0), mask=real)
    tl.store(distances + place, tl.load(all_distances + here, mask=real, other=0.0), mask=real)
    u, v = column.to(tl.float32), row.to(tl.float32)
    for axis in tl.static_range(3):
        normal = tl.load(all_normals + here * 3 + axis, mask=real, other=0.0)
        tl.store(normals + place * 3 + axis, normal, mask=real)
        line = inverses + view * 9 + axis * 3
        m = tl.load(line, mask=real, other=0.0) * u + tl.load(line + 1, mask=real, other=0.0) * v
        m += tl.load(line + 2, mask=real, other=0.0)
        tl.store(ms + place * 3 + axis, m, mask=real)
    once = real & (pixel == 0)
    tl.store(views + patch, view, mask=once)
    for axis in tl.static_range(2):
        focal = tl.load(focals + view * 2 + axis, mask=once, other=0.0)
        tl.store(own_focals + patch * 2 + axis, focal, mask=once)
    jitter = (word(jitter_key, step, patch) >> 8).to(tl.float32) * (1.0 / 16777216.0)
    tl.store(jitters + patch, jitter, mask=once)
