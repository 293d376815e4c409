"""Gradients from differences between neighbouring rays' samples, by Triton kernels: the twin is
`rendering.gradients.directional_gradient`."""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from pmni.kernels.devices import device_of
from pmni.kernels.types import Patches, Planes

SAMPLES = 128
"""A program's: one a thread."""


def directional_gradient(
    f: Float[Tensor, "M h w"], patches: Patches, planes: Planes
) -> Float[Tensor, "M h w 3"]:
    """As `rendering.gradients.directional_gradient`; zero where planes are not joined."""
    found: Tensor = _Directional.apply(
        f, patches.m, patches.focal, planes.patch, planes.z, planes.valid
    )
    return found


class _Directional(torch.autograd.Function):
    """Differentiable once, by f."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, *known: Tensor) -> Tensor:
        known = tuple(tensor.contiguous() for tensor in known)
        ctx.save_for_backward(*known)
        out = f.new_empty(*f.shape, 3)
        _launch(_gradient, known, f.contiguous(), out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        known = ctx.saved_tensors
        by_f = gradient.new_empty(gradient.shape[:-1])
        _launch(_gradient_derivative, known, gradient.contiguous(), by_f)
        return by_f, None, None, None, None, None


def _launch(kernel: Any, known: tuple[Tensor, ...], given: Tensor, out: Tensor) -> None:
    m, focal, patch, z, joined = known
    total = len(z) * m.shape[1] * m.shape[2]
    if total == 0:
        return
    with device_of(m):
        kernel[(triton.cdiv(total, SAMPLES),)](
            m,
            focal,
            patch,
            z,
            joined.view(torch.uint8),
            given,
            out,
            total,
            len(z),
            HEIGHT=m.shape[1],
            WIDTH=m.shape[2],
            SAMPLES=SAMPLES,
        )


@triton.jit
def _joined(joined, plane, wanted):
    return tl.load(joined + plane, mask=wanted, other=0) != 0


@triton.jit
def _difference(f, sample, place, size, stride, wanted):
    """Half the difference of the neighbours at both sides, or the whole of that at the border."""
    low = tl.where(place > 0, 1, 0)
    high = tl.where(place < size - 1, 1, 0)
    above = tl.load(f + sample + high * stride, mask=wanted, other=0.0)
    below = tl.load(f + sample - low * stride, mask=wanted, other=0.0)
    return (above - below) / (low + high).to(tl.float32)


@triton.jit
def _gradient(
    ms,
    focals,
    patch_of,
    depths,
    joined,
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
    real = sample < total
    plane, pixel = sample // PIXELS, sample % PIXELS
    row, column = pixel // WIDTH, pixel % WIDTH
    on = _joined(joined, plane, real)
    patch = tl.load(patch_of + plane, mask=on, other=0)
    near = tl.load(depths + plane, mask=on, other=1.0)
    far = tl.load(depths + plane + 1, mask=on, other=2.0)
    by_u = _difference(f, sample, column, WIDTH, 1, on) / near
    by_u += _difference(f, sample + PIXELS, column, WIDTH, 1, on) / far
    by_v = _difference(f, sample, row, HEIGHT, WIDTH, on) / near
    by_v += _difference(f, sample + PIXELS, row, HEIGHT, WIDTH, on) / far
    x = tl.load(focals + patch * 2, mask=on, other=0.0) / 2 * by_u
    y = tl.load(focals + patch * 2 + 1, mask=on, other=0.0) / 2 * by_v
    ray = ms + 3 * (patch * PIXELS + pixel)
    u, v = tl.load(ray, mask=on, other=0.0), tl.load(ray + 1, mask=on, other=0.0)
    ahead = tl.load(f + sample + PIXELS, mask=on, other=0.0)
    z = (ahead - tl.load(f + sample, mask=on, other=0.0)) / (far - near) - u * x - v * y
    tl.store(out + sample * 3, tl.where(on, x, 0.0), mask=real)
    tl.store(out + sample * 3 + 1, tl.where(on, y, 0.0), mask=real)
    tl.store(out + sample * 3 + 2, tl.where(on, z, 0.0), mask=real)


@triton.jit
def _taken(gradients, ms, ray, sample, shift, axis: tl.constexpr, wanted):
    """The derivative by g_x or g_y of the sample so many pixels on, g_z being made of them too."""
    place = sample + shift
    own = tl.load(gradients + place * 3 + axis, mask=wanted, other=0.0)
    z = tl.load(gradients + place * 3 + 2, mask=wanted, other=0.0)
    return own - tl.load(ms + (ray + shift) * 3 + axis, mask=wanted, other=0.0) * z


@triton.jit
def _back(gradients, ms, ray, sample, place, size, stride, axis: tl.constexpr, wanted):
    """The transpose of `_difference`: of the neighbours' derivatives, what belongs to this one."""
    before = _taken(gradients, ms, ray, sample, -stride, axis, wanted & (place > 0))
    after = _taken(gradients, ms, ray, sample, stride, axis, wanted & (place < size - 1))
    here = _taken(gradients, ms, ray, sample, 0, axis, wanted)
    # A neighbour at the border has a whole difference, not half of one.
    found = before * tl.where(place == 1, 1.0, 0.5) - after * tl.where(place == size - 2, 1.0, 0.5)
    return found + tl.where(place == size - 1, here, 0.0) - tl.where(place == 0, here, 0.0)


@triton.jit
def _gradient_derivative(
    ms,
    focals,
    patch_of,
    depths,
    joined,
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
    real = sample < total
    plane, pixel = sample // PIXELS, sample % PIXELS
    row, column = pixel // WIDTH, pixel % WIDTH
    patch = tl.load(patch_of + plane, mask=real, other=0)
    ray = patch * PIXELS + pixel
    depth = tl.load(depths + plane, mask=real, other=1.0)
    depth = tl.where(depth > 0, depth, 1.0)  # spare planes have none
    half_x = tl.load(focals + patch * 2, mask=real, other=0.0) / 2
    half_y = tl.load(focals + patch * 2 + 1, mask=real, other=0.0) / 2
    found = tl.zeros((SAMPLES,), tl.float32)
    for side in tl.static_range(2):  # of the interval behind the plane, of that before it
        interval = plane - side
        on = _joined(joined, interval, real & (interval >= 0))
        there = sample - side * PIXELS
        by_u = _back(gradients, ms, ray, there, column, WIDTH, 1, 0, on)
        by_v = _back(gradients, ms, ray, there, row, HEIGHT, WIDTH, 1, on)
        across = (half_x * by_u + half_y * by_v) / depth
        near = tl.load(depths + interval, mask=on, other=1.0)
        far = tl.load(depths + interval + 1, mask=on, other=2.0)
        along = tl.load(gradients + there * 3 + 2, mask=on, other=0.0) / (far - near)
        found += tl.where(on, across + (along if side else -along), 0.0)
    tl.store(out + sample, found, mask=real)
