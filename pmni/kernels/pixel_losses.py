"""Normal, mask and eikonal loss in one pass over the pixels; reference: `training.losses`.

Sums have a fixed order.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from pmni.kernels.constants import MIN_OPACITY
from pmni.kernels.devices import device_guard

PIXELS = 256
"""Pixels of a program."""
_LEAST, _MOST = tl.constexpr(MIN_OPACITY), tl.constexpr(1 - MIN_OPACITY)


def pixel_losses(
    normal: Float[Tensor, "*n 3"],
    opacity: Float[Tensor, "*n"],
    eikonal_residual: Float[Tensor, "*n"],
    intervals: Int[Tensor, ""],
    measured: Float[Tensor, "*n 3"],
    mask: Float[Tensor, "*n"],
    norm: str,
) -> Float[Tensor, "3"]:
    """The losses `normal`, `mask` and `eikonal`; differentiable once by the first three."""
    rendered: Tensor = _Terms.apply(
        normal, opacity, eikonal_residual, intervals, measured, mask, norm == "l2"
    )
    return rendered


class _Terms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        normal: Tensor,
        opacity: Tensor,
        eikonal_residual: Tensor,
        intervals: Tensor,
        measured: Tensor,
        mask: Tensor,
        squares: bool,
    ) -> Tensor:
        normal, opacity, eikonal_residual, measured, mask = (
            tensor.contiguous() for tensor in (normal, opacity, eikonal_residual, measured, mask)
        )
        count = mask.numel()
        programs = triton.cdiv(count, PIXELS)
        partial_sums = normal.new_empty(4, programs)
        out = normal.new_empty(4)
        with device_guard(mask):
            _sums[(programs,)](
                normal, opacity, eikonal_residual, measured, mask, partial_sums, count,
                PIXELS=PIXELS, SQUARES=squares,
            )  # fmt: skip
            _means[(1,)](partial_sums, intervals, out, programs, count, PROGRAMS=1024)
        ctx.save_for_backward(normal, opacity, measured, mask, out, intervals)
        ctx.squares = squares
        return out[:3]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normal, opacity, *_ = saved = ctx.saved_tensors
        grad_normal, grad_opacity = torch.empty_like(normal), torch.empty_like(opacity)
        grad_error = torch.empty_like(opacity)
        count = opacity.numel()
        with device_guard(opacity):
            _derivatives[(triton.cdiv(count, PIXELS),)](
                *saved, gradient.contiguous(), grad_normal, grad_opacity, grad_error, count,
                PIXELS=PIXELS, SQUARES=ctx.squares,
            )  # fmt: skip
        return grad_normal, grad_opacity, grad_error, None, None, None, None


@triton.jit
def _sums(
    normals,
    opacities,
    errors,
    measured,
    masks,
    partial_sums,
    count,
    PIXELS: tl.constexpr,
    SQUARES: tl.constexpr,
):
    """partial_sums (4, programs): normal errors, entropies, eikonal residuals, mask."""
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    in_range = pixel < count
    mask = tl.load(masks + pixel, mask=in_range, other=0.0)
    normal_error = tl.zeros((PIXELS,), tl.float32)
    for axis in tl.static_range(3):
        index = pixel * 3 + axis
        rendered = tl.load(normals + index, mask=in_range, other=0.0)
        difference = rendered - tl.load(measured + index, mask=in_range, other=0.0)
        normal_error += difference * difference if SQUARES else tl.abs(difference)
    opacity = tl.load(opacities + pixel, mask=in_range, other=0.5)
    opacity = tl.minimum(tl.maximum(opacity, _LEAST), _MOST)
    entropy = -mask * tl.log(opacity) - (1 - mask) * tl.log(1 - opacity)
    error = tl.load(errors + pixel, mask=in_range, other=0.0)
    out, programs = partial_sums + tl.program_id(0), tl.num_programs(0)
    tl.store(out, tl.sum(normal_error * mask, 0))
    tl.store(out + programs, tl.sum(tl.where(in_range, entropy, 0.0), 0))
    tl.store(out + 2 * programs, tl.sum(error, 0))
    tl.store(out + 3 * programs, tl.sum(mask, 0))


@triton.jit
def _means(partial_sums, intervals, out, programs, count, PROGRAMS: tl.constexpr):
    """out (4): the three terms, and the number of pixels in the mask or 1."""
    normal_error, entropy = tl.zeros((PROGRAMS,), tl.float32), tl.zeros((PROGRAMS,), tl.float32)
    error, inside = tl.zeros((PROGRAMS,), tl.float32), tl.zeros((PROGRAMS,), tl.float32)
    for begin in range(0, programs, PROGRAMS):
        program = begin + tl.arange(0, PROGRAMS)
        in_range = program < programs
        normal_error += tl.load(partial_sums + program, mask=in_range, other=0.0)
        entropy += tl.load(partial_sums + programs + program, mask=in_range, other=0.0)
        error += tl.load(partial_sums + 2 * programs + program, mask=in_range, other=0.0)
        inside += tl.load(partial_sums + 3 * programs + program, mask=in_range, other=0.0)
    pixels = tl.maximum(tl.sum(inside, 0), 1.0)
    tl.store(out, tl.sum(normal_error, 0) / pixels)
    tl.store(out + 1, tl.sum(entropy, 0) / count)
    tl.store(out + 2, tl.sum(error, 0) / tl.maximum(tl.load(intervals).to(tl.float32), 1.0))
    tl.store(out + 3, pixels)


@triton.jit
def _derivatives(
    normals,
    opacities,
    measured,
    masks,
    means,
    intervals,
    gradients,
    grad_normal,
    grad_opacity,
    grad_error,
    count,
    PIXELS: tl.constexpr,
    SQUARES: tl.constexpr,
):
    """Gradients of <gradients (3), the losses>."""
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    in_range = pixel < count
    mask = tl.load(masks + pixel, mask=in_range, other=0.0)
    weight = tl.load(gradients) / tl.load(means + 3) * mask
    for axis in tl.static_range(3):
        index = pixel * 3 + axis
        rendered = tl.load(normals + index, mask=in_range, other=0.0)
        difference = rendered - tl.load(measured + index, mask=in_range, other=0.0)
        if SQUARES:
            slope = 2 * difference
        else:
            slope = tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, 0.0))
        tl.store(grad_normal + index, weight * slope, mask=in_range)
    opacity = tl.load(opacities + pixel, mask=in_range, other=0.5)
    within = (opacity >= _LEAST) & (opacity <= _MOST)
    opacity = tl.minimum(tl.maximum(opacity, _LEAST), _MOST)
    slope = (opacity - mask) / (opacity * (1 - opacity)) * (tl.load(gradients + 1) / count)
    tl.store(grad_opacity + pixel, tl.where(within, slope, 0.0), mask=in_range)
    share = tl.load(gradients + 2) / tl.maximum(tl.load(intervals).to(tl.float32), 1.0)
    tl.store(grad_error + pixel, share + tl.zeros((PIXELS,), tl.float32), mask=in_range)
