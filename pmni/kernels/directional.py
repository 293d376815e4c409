"""Gradients from differences between neighbouring rays' samples, by Triton kernels.

Reference implementation: `volume_rendering.gradients.directional_gradient`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from pmni.kernels.devices import device_guard
from pmni.kernels.types import Patches, Planes

SAMPLES = 128
"""Samples of a program, one a thread."""


def directional_gradient(
    f: Float[Tensor, "M h w"], patches: Patches, planes: Planes
) -> Float[Tensor, "M h w 3"]:
    """Gradients of the intervals, camera frame; zero where they are not valid."""
    result: Tensor = _Directional.apply(
        f, patches.m, patches.focal, planes.patch, planes.z, planes.valid
    )
    return result


class _Directional(torch.autograd.Function):
    """Autograd function, once differentiable with respect to f."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, *geometry: Tensor) -> Tensor:
        geometry = tuple(tensor.contiguous() for tensor in geometry)
        ctx.save_for_backward(*geometry)
        out = f.new_empty(*f.shape, 3)
        _launch(_gradient, geometry, f.contiguous(), out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        geometry = ctx.saved_tensors
        grad_f = gradient.new_empty(gradient.shape[:-1])
        _launch(_gradient_derivative, geometry, gradient.contiguous(), grad_f)
        return grad_f, None, None, None, None, None


def _launch(kernel: Any, geometry: tuple[Tensor, ...], inputs: Tensor, out: Tensor) -> None:
    m, focal, patch, z, valid = geometry
    total = len(z) * m.shape[1] * m.shape[2]
    if total == 0:
        return
    with device_guard(m):
        kernel[(triton.cdiv(total, SAMPLES),)](
            m,
            focal,
            patch,
            z,
            valid.view(torch.uint8),
            inputs,
            out,
            total,
            len(z),
            HEIGHT=m.shape[1],
            WIDTH=m.shape[2],
            SAMPLES=SAMPLES,
        )


@triton.jit
def _is_valid(valid, plane, mask):
    return tl.load(valid + plane, mask=mask, other=0) != 0


@triton.jit
def _difference(f, sample, position, size, stride, mask):
    """Central difference between neighbouring rays; one-sided at the border of a patch."""
    low = tl.where(position > 0, 1, 0)
    high = tl.where(position < size - 1, 1, 0)
    above = tl.load(f + sample + high * stride, mask=mask, other=0.0)
    below = tl.load(f + sample - low * stride, mask=mask, other=0.0)
    return (above - below) / (low + high).to(tl.float32)


@triton.jit
def _gradient(
    ms,
    focals,
    patch_of,
    depths,
    valid,
    f,
    out,
    total,
    planes,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    """out (total, 3): the gradients of f (total)."""
    PIXELS: tl.constexpr = HEIGHT * WIDTH
    sample = tl.program_id(0).to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES)
    in_range = sample < total
    plane, pixel = sample // PIXELS, sample % PIXELS
    row, column = pixel // WIDTH, pixel % WIDTH
    is_valid = _is_valid(valid, plane, in_range)
    patch = tl.load(patch_of + plane, mask=is_valid, other=0)
    near = tl.load(depths + plane, mask=is_valid, other=1.0)
    far = tl.load(depths + plane + 1, mask=is_valid, other=2.0)
    df_du = _difference(f, sample, column, WIDTH, 1, is_valid) / near
    df_du += _difference(f, sample + PIXELS, column, WIDTH, 1, is_valid) / far
    df_dv = _difference(f, sample, row, HEIGHT, WIDTH, is_valid) / near
    df_dv += _difference(f, sample + PIXELS, row, HEIGHT, WIDTH, is_valid) / far
    x = tl.load(focals + patch * 2, mask=is_valid, other=0.0) / 2 * df_du
    y = tl.load(focals + patch * 2 + 1, mask=is_valid, other=0.0) / 2 * df_dv
    ray = ms + 3 * (patch * PIXELS + pixel)
    u, v = tl.load(ray, mask=is_valid, other=0.0), tl.load(ray + 1, mask=is_valid, other=0.0)
    ahead = tl.load(f + sample + PIXELS, mask=is_valid, other=0.0)
    z = (ahead - tl.load(f + sample, mask=is_valid, other=0.0)) / (far - near) - u * x - v * y
    tl.store(out + sample * 3, tl.where(is_valid, x, 0.0), mask=in_range)
    tl.store(out + sample * 3 + 1, tl.where(is_valid, y, 0.0), mask=in_range)
    tl.store(out + sample * 3 + 2, tl.where(is_valid, z, 0.0), mask=in_range)


@triton.jit
def _grad_component(gradients, ms, ray, sample, shift, axis: tl.constexpr, mask):
    """Derivative by g_x or g_y of the sample `shift` pixels on, with its part through g_z."""
    position = sample + shift
    component = tl.load(gradients + position * 3 + axis, mask=mask, other=0.0)
    z = tl.load(gradients + position * 3 + 2, mask=mask, other=0.0)
    return component - tl.load(ms + (ray + shift) * 3 + axis, mask=mask, other=0.0) * z


@triton.jit
def _difference_transpose(
    gradients, ms, ray, sample, position, size, stride, axis: tl.constexpr, mask
):
    """The transpose of `_difference`, at one sample."""
    before = _grad_component(gradients, ms, ray, sample, -stride, axis, mask & (position > 0))
    after = _grad_component(gradients, ms, ray, sample, stride, axis, mask & (position < size - 1))
    at_sample = _grad_component(gradients, ms, ray, sample, 0, axis, mask)
    # A neighbour at the border has a whole difference, not half of one.
    result = before * tl.where(position == 1, 1.0, 0.5) - after * tl.where(
        position == size - 2, 1.0, 0.5
    )
    return (
        result
        + tl.where(position == size - 1, at_sample, 0.0)
        - tl.where(position == 0, at_sample, 0.0)
    )


@triton.jit
def _gradient_derivative(
    ms,
    focals,
    patch_of,
    depths,
    valid,
    gradients,
    out,
    total,
    planes,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    """out (total): the derivative by f of <gradients, `_gradient`>."""
    PIXELS: tl.constexpr = HEIGHT * WIDTH
    sample = tl.program_id(0).to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES)
    in_range = sample < total
    plane, pixel = sample // PIXELS, sample % PIXELS
    row, column = pixel // WIDTH, pixel % WIDTH
    patch = tl.load(patch_of + plane, mask=in_range, other=0)
    ray = patch * PIXELS + pixel
    depth = tl.load(depths + plane, mask=in_range, other=1.0)
    depth = tl.where(depth > 0, depth, 1.0)  # padding planes have z = 0
    half_x = tl.load(focals + patch * 2, mask=in_range, other=0.0) / 2
    half_y = tl.load(focals + patch * 2 + 1, mask=in_range, other=0.0) / 2
    result = tl.zeros((SAMPLES,), tl.float32)
    for side in tl.static_range(2):  # of the interval behind the plane, of that before it
        interval = plane - side
        is_valid = _is_valid(valid, interval, in_range & (interval >= 0))
        interval_sample = sample - side * PIXELS
        grad_u = _difference_transpose(
            gradients, ms, ray, interval_sample, column, WIDTH, 1, 0, is_valid
        )
        grad_v = _difference_transpose(
            gradients, ms, ray, interval_sample, row, HEIGHT, WIDTH, 1, is_valid
        )
        tangential = (half_x * grad_u + half_y * grad_v) / depth
        near = tl.load(depths + interval, mask=is_valid, other=1.0)
        far = tl.load(depths + interval + 1, mask=is_valid, other=2.0)
        along = tl.load(gradients + interval_sample * 3 + 2, mask=is_valid, other=0.0) / (
            far - near
        )
        result += tl.where(is_valid, tangential + (along if side else -along), 0.0)
    tl.store(out + sample, result, mask=in_range)
