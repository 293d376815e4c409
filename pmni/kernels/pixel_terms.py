"""The terms of the loss that pixels have alone, by Triton kernels: the twin is
`training.losses`. Sums are in an order that does not change."""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from pmni.kernels.constants import MIN_OPACITY
from pmni.kernels.devices import device_of

PIXELS = 256
"""A program's."""
_LEAST, _MOST = tl.constexpr(MIN_OPACITY), tl.constexpr(1 - MIN_OPACITY)


def pixel_terms(
    normal: Float[Tensor, "*n 3"],
    opacity: Float[Tensor, "*n"],
    slope_error: Float[Tensor, "*n"],
    intervals: Int[Tensor, ""],
    given: Float[Tensor, "*n 3"],
    mask: Float[Tensor, "*n"],
    norm: str,
) -> Float[Tensor, "3"]:
    """As `training.losses`; differentiable once by the first three."""
    found: Tensor = _Terms.apply(normal, opacity, slope_error, intervals, given, mask, norm == "l2")
    return found


class _Terms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        normal: Tensor,
        opacity: Tensor,
        slope_error: Tensor,
        intervals: Tensor,
        given: Tensor,
        mask: Tensor,
        squares: bool,
    ) -> Tensor:
        normal, opacity, slope_error, given, mask = (
            tensor.contiguous() for tensor in (normal, opacity, slope_error, given, mask)
        )
        count = mask.numel()
        programs = triton.cdiv(count, PIXELS)
        parts = normal.new_empty(4, programs)
        out = normal.new_empty(4)
        with device_of(mask):
            _sums[(programs,)](
                normal, opacity, slope_error, given, mask, parts, count, PIXELS=PIXELS,
                SQUARES=squares,
            )  # fmt: skip
            _means[(1,)](parts, intervals, out, programs, count, PROGRAMS=1024)
        ctx.save_for_backward(normal, opacity, given, mask, out, intervals)
        ctx.squares = squares
        return out[:3]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normal, opacity, *_ = known = ctx.saved_tensors
        by_normal, by_opacity = torch.empty_like(normal), torch.empty_like(opacity)
        by_error = torch.empty_like(opacity)
        count = opacity.numel()
        with device_of(opacity):
            _derivatives[(triton.cdiv(count, PIXELS),)](
                *known, gradient.contiguous(), by_normal, by_opacity, by_error, count,
                PIXELS=PIXELS, SQUARES=ctx.squares,
            )  # fmt: skip
        return by_normal, by_opacity, by_error, None, None, None, None


@triton.jit
def _sums(
    normals,
    opacities,
    errors,
    given,
    masks,
    parts,
    count,
    PIXELS: tl.constexpr,
    SQUARES: tl.constexpr,
):
    """parts (4, programs): of normals' errors, entropies, slope errors, and the mask."""
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    real = pixel < count
    mask = tl.load(masks + pixel, mask=real, other=0.0)
    off = tl.zeros((PIXELS,), tl.float32)
    for axis in tl.static_range(3):
        place = pixel * 3 + axis
        found = tl.load(normals + place, mask=real, other=0.0)
        difference = found - tl.load(given + place, mask=real, other=0.0)
        off += difference * difference if SQUARES else tl.abs(difference)
    opacity = tl.load(opacities + pixel, mask=real, other=0.5)
    opacity = tl.minimum(tl.maximum(opacity, _LEAST), _MOST)
    entropy = -mask * tl.log(opacity) - (1 - mask) * tl.log(1 - opacity)
    error = tl.load(errors + pixel, mask=real, other=0.0)
    out, programs = parts + tl.program_id(0), tl.num_programs(0)
    tl.store(out, tl.sum(off * mask, 0))
    tl.store(out + programs, tl.sum(tl.where(real, entropy, 0.0), 0))
    tl.store(out + 2 * programs, tl.sum(error, 0))
    tl.store(out + 3 * programs, tl.sum(mask, 0))


@triton.jit
def _means(parts, intervals, out, programs, count, PROGRAMS: tl.constexpr):
    """out (4): the three terms, and the number of pixels in the mask or 1."""
    off, entropy = tl.zeros((PROGRAMS,), tl.float32), tl.zeros((PROGRAMS,), tl.float32)
    error, inside = tl.zeros((PROGRAMS,), tl.float32), tl.zeros((PROGRAMS,), tl.float32)
    for begin in range(0, programs, PROGRAMS):
        program = begin + tl.arange(0, PROGRAMS)
        real = program < programs
        off += tl.load(parts + program, mask=real, other=0.0)
        entropy += tl.load(parts + programs + program, mask=real, other=0.0)
        error += tl.load(parts + 2 * programs + program, mask=real, other=0.0)
        inside += tl.load(parts + 3 * programs + program, mask=real, other=0.0)
    pixels = tl.maximum(tl.sum(inside, 0), 1.0)
    tl.store(out, tl.sum(off, 0) / pixels)
    tl.store(out + 1, tl.sum(entropy, 0) / count)
    tl.store(out + 2, tl.sum(error, 0) / tl.maximum(tl.load(intervals).to(tl.float32), 1.0))
    tl.store(out + 3, pixels)


@triton.jit
def _derivatives(
    normals,
    opacities,
    given,
    masks,
    means,
    intervals,
    gradients,
    by_normal,
    by_opacity,
    by_error,
    count,
    PIXELS: tl.constexpr,
    SQUARES: tl.constexpr,
):
    """Of <gradients (3), the terms>."""
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    real = pixel < count
    mask = tl.load(masks + pixel, mask=real, other=0.0)
    weight = tl.load(gradients) / tl.load(means + 3) * mask
    for axis in tl.static_range(3):
        place = pixel * 3 + axis
        found = tl.load(normals + place, mask=real, other=0.0)
        difference = found - tl.load(given + place, mask=real, other=0.0)
        if SQUARES:
            slope = 2 * difference
        else:
            slope = tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, 0.0))
        tl.store(by_normal + place, weight * slope, mask=real)
    opacity = tl.load(opacities + pixel, mask=real, other=0.5)
    within = (opacity >= _LEAST) & (opacity <= _MOST)
    opacity = tl.minimum(tl.maximum(opacity, _LEAST), _MOST)
    slope = (opacity - mask) / (opacity * (1 - opacity)) * (tl.load(gradients + 1) / count)
    tl.store(by_opacity + pixel, tl.where(within, slope, 0.0), mask=real)
    share = tl.load(gradients + 2) / tl.maximum(tl.load(intervals).to(tl.float32), 1.0)
    tl.store(by_error + pixel, share + tl.zeros((PIXELS,), tl.float32), mask=real)
