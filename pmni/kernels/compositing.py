"""NeuS weights and volume rendering, one thread a ray, by Triton kernels.

Reference implementation: `volume_rendering.compositing`. Sums follow the order of the planes, so
that they are deterministic.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from pmni.kernels.constants import ALPHA_EPSILON, LENGTH_EPSILON
from pmni.kernels.devices import device_guard
from pmni.kernels.load_store import load3, store3
from pmni.kernels.types import Patches, Planes

RAYS = 32
"""Rays of a program: one warp, so that no ray waits for those of other warps."""
_ALPHA_EPSILON = tl.constexpr(ALPHA_EPSILON)
_LENGTH_EPSILON = tl.constexpr(LENGTH_EPSILON)


def composite(
    f: Float[Tensor, "M h w"],
    gradient: Float[Tensor, "M h w 3"],
    per_interval: bool,
    patches: Patches,
    planes: Planes,
    inv_s: Float[Tensor, ""],
) -> tuple[
    Float[Tensor, "P h w"], Float[Tensor, "P h w"], Float[Tensor, "P h w 3"], Float[Tensor, "P h w"]
]:
    """Opacity, distance, normal in the frame of the gradients, and eikonal residual."""
    outputs: tuple[Tensor, Tensor, Tensor, Tensor] = _Composite.apply(
        f,
        gradient,
        inv_s,
        per_interval,
        patches.m,
        planes.z,
        planes.valid,
        planes.offsets,
    )
    return outputs


class _Composite(torch.autograd.Function):
    """Autograd function, once differentiable with respect to f, its gradients and the sharpness."""

    @staticmethod
    def forward(
        ctx: Any, f: Tensor, gradient: Tensor, inv_s: Tensor, per_interval: bool, *geometry: Tensor
    ) -> tuple[Tensor, ...]:
        f, gradient = f.contiguous(), gradient.contiguous()
        m, *planes = (tensor.contiguous() for tensor in geometry)
        transmittances = torch.empty_like(f)
        opacity, distance, error = (m.new_empty(m.shape[:3]) for _ in range(3))
        normal = torch.empty_like(m)
        inputs = (m, *planes, f, gradient, inv_s, transmittances)
        _launch(_accumulate, per_interval, inputs, (opacity, distance, normal, error))
        ctx.save_for_backward(*inputs)
        ctx.per_interval = per_interval
        return opacity, distance, normal, error

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        m, _, _, _, f, gradient, *_ = inputs = ctx.saved_tensors
        grad_f, grad_gradient = torch.zeros_like(f), torch.zeros_like(gradient)
        grad_inv_s = m.new_empty(m.shape[:3])
        outputs = (*(one.contiguous() for one in gradients), grad_f, grad_gradient, grad_inv_s)
        _launch(_accumulate_derivatives, ctx.per_interval, inputs, outputs)
        sharpness = grad_inv_s.sum() if ctx.needs_input_grad[2] else None
        return grad_f, grad_gradient, sharpness, None, None, None, None, None


def _launch(
    kernel: Any, per_interval: bool, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
) -> None:
    m, z, valid, *others = inputs
    pixels = m.shape[1] * m.shape[2]
    rays = len(m) * pixels
    if rays == 0:
        return
    with device_guard(m):
        kernel[(triton.cdiv(rays, RAYS),)](
            m,
            z,
            valid.view(torch.uint8),
            *others,
            *outputs,
            rays,
            PIXELS=pixels,
            RAYS=RAYS,
            PER_INTERVAL=per_interval,
            num_warps=1,
        )


@triton.jit
def _sigmoid(h):
    """The logistic sigmoid, computed without overflow."""
    small = tl.exp(-tl.abs(h))
    return tl.where(h >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def _interval_gradient(x, y, z, next_x, next_y, next_z, PER_INTERVAL: tl.constexpr):
    """Gradient of an interval: its own (PER_INTERVAL), or the mean of its two planes."""
    if not PER_INTERVAL:
        x, y, z = (x + next_x) / 2, (y + next_y) / 2, (z + next_z) / 2
    return x, y, z


@triton.jit
def _grad_sdf(raw, phi, next_phi, grad_alpha):
    """Derivatives with respect to h of this and of the next plane, where phi = sigmoid(h)."""
    grad_raw = tl.where((raw >= 0) & (raw <= 1), grad_alpha, 0.0)
    to_next = -grad_raw / (phi + _ALPHA_EPSILON)
    to_this = -to_next * next_phi / (phi + _ALPHA_EPSILON) * (phi * (1 - phi))
    return to_this, to_next * next_phi * (1 - next_phi)


@triton.jit
def _rays(ms, first, rays, PIXELS: tl.constexpr, RAYS: tl.constexpr):
    """Rays, their mask, pixels, first and last planes, and lengths at z = 1."""
    ray = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    in_range = ray < rays
    patch = ray // PIXELS
    begin = tl.load(first + patch, mask=in_range, other=0)
    last = tl.load(first + patch + 1, mask=in_range, other=0) - 1
    x, y, z = load3(ms, ray, in_range)
    return ray, in_range, ray % PIXELS, begin, last, tl.sqrt(x * x + y * y + z * z)


@triton.jit
def _accumulate(
    ms,
    depths,
    valid,
    first,
    f,
    gradients,
    sharpness,
    transmittances,
    opacities,
    distances,
    normals,
    errors,
    rays,
    PIXELS: tl.constexpr,
    RAYS: tl.constexpr,
    PER_INTERVAL: tl.constexpr,
):
    """Accumulate along rays; transmittances (M, C) are those in front of each interval."""
    ray, in_range, pixel, plane, last, length = _rays(ms, first, rays, PIXELS, RAYS)
    inv_s = tl.load(sharpness)
    index = plane * PIXELS + pixel
    active = in_range & (plane < last)
    phi = _sigmoid(tl.load(f + index, mask=active, other=0.0) * inv_s)
    depth = tl.load(depths + plane, mask=active, other=0.0)
    x, y, z = load3(gradients, index, active)
    transmittance = tl.zeros((RAYS,), tl.float32) + 1
    opacity, distance = tl.zeros((RAYS,), tl.float32), tl.zeros((RAYS,), tl.float32)
    nx, ny, nz = tl.zeros_like(opacity), tl.zeros_like(opacity), tl.zeros_like(opacity)
    error = tl.zeros_like(opacity)
    while tl.max(active.to(tl.int32), 0) > 0:
        is_valid = active & (tl.load(valid + plane, mask=active, other=0) != 0)
        next_phi = _sigmoid(tl.load(f + index + PIXELS, mask=active, other=0.0) * inv_s)
        next_depth = tl.load(depths + plane + 1, mask=active, other=0.0)
        next_x, next_y, next_z = load3(gradients, index + PIXELS, active)
        alpha = (phi - next_phi + _ALPHA_EPSILON) / (phi + _ALPHA_EPSILON)
        alpha = tl.where(is_valid, tl.minimum(tl.maximum(alpha, 0.0), 1.0), 0.0)
        gx, gy, gz = _interval_gradient(x, y, z, next_x, next_y, next_z, PER_INTERVAL)
        weight = alpha * transmittance
        opacity += weight
        distance += weight * (depth + next_depth) / 2
        nx += weight * gx
        ny += weight * gy
        nz += weight * gz
        deviation = tl.sqrt(gx * gx + gy * gy + gz * gz + _LENGTH_EPSILON) - 1
        error += tl.where(is_valid, deviation * deviation, 0.0)
        tl.store(transmittances + index, transmittance, mask=active)
        transmittance *= 1 - alpha
        phi, depth, x, y, z = next_phi, next_depth, next_x, next_y, next_z
        plane += 1
        index += PIXELS
        active = in_range & (plane < last)
    tl.store(opacities + ray, opacity, mask=in_range)
    tl.store(distances + ray, distance * length, mask=in_range)
    store3(normals, ray, nx, ny, nz, in_range)
    tl.store(errors + ray, error, mask=in_range)


@triton.jit
def _accumulate_derivatives(
    ms,
    depths,
    valid,
    first,
    f,
    gradients,
    sharpness,
    transmittances,
    grad_opacity,
    grad_distance,
    grad_normal,
    grad_error,
    grad_f,
    grad_gradients,
    grad_sharpness,
    rays,
    PIXELS: tl.constexpr,
    RAYS: tl.constexpr,
    PER_INTERVAL: tl.constexpr,
):
    """From the derivatives by what `_accumulate` gives: by f, gradients and, ray by ray, sharpness.

    From the last plane to the first. With q_i the derivative by the weight alpha_i T_i
    (`interval_value`), and R_i that of all intervals from i on (`tail_value`),
    R_i = alpha_i q_i + (1 - alpha_i) R_i+1, and the derivative by alpha_i is T_i (q_i - R_i+1).
    """
    ray, in_range, pixel, begin, last, length = _rays(ms, first, rays, PIXELS, RAYS)
    inv_s = tl.load(sharpness)
    opacity_gradient = tl.load(grad_opacity + ray, mask=in_range, other=0.0)
    distance_gradient = tl.load(grad_distance + ray, mask=in_range, other=0.0) * length / 2
    nx, ny, nz = load3(grad_normal, ray, in_range)
    error_gradient = tl.load(grad_error + ray, mask=in_range, other=0.0)
    tail_value, total = tl.zeros((RAYS,), tl.float32), tl.zeros((RAYS,), tl.float32)
    plane = last - 1  # where the interval begins
    index = plane * PIXELS + pixel
    active = in_range & (plane >= begin)
    next_f = tl.load(f + index + PIXELS, mask=active, other=0.0)
    next_phi, next_depth = _sigmoid(next_f * inv_s), tl.load(depths + last, mask=active, other=0.0)
    next_x, next_y, next_z = load3(gradients, index + PIXELS, active)
    # What the plane behind the interval has from those behind it.
    carry = tl.zeros_like(tail_value)
    carry_x, carry_y, carry_z = (
        tl.zeros_like(tail_value),
        tl.zeros_like(tail_value),
        tl.zeros_like(tail_value),
    )
    while tl.max(active.to(tl.int32), 0) > 0:
        is_valid = active & (tl.load(valid + plane, mask=active, other=0) != 0)
        this_f = tl.load(f + index, mask=active, other=0.0)
        phi = _sigmoid(this_f * inv_s)
        depth = tl.load(depths + plane, mask=active, other=0.0)
        this_x, this_y, this_z = load3(gradients, index, active)
        raw = (phi - next_phi + _ALPHA_EPSILON) / (phi + _ALPHA_EPSILON)
        alpha = tl.where(is_valid, tl.minimum(tl.maximum(raw, 0.0), 1.0), 0.0)
        gx, gy, gz = _interval_gradient(
            this_x, this_y, this_z, next_x, next_y, next_z, PER_INTERVAL
        )
        interval_value = (
            opacity_gradient
            + distance_gradient * (depth + next_depth)
            + nx * gx
            + ny * gy
            + nz * gz
        )
        transmittance = tl.load(transmittances + index, mask=active, other=0.0)
        to_this, to_next = _grad_sdf(
            raw,
            phi,
            next_phi,
            tl.where(is_valid, transmittance * (interval_value - tail_value), 0.0),
        )
        tail_value = alpha * interval_value + (1 - alpha) * tail_value
        total += to_this * this_f + to_next * next_f
        tl.store(grad_f + index + PIXELS, carry + to_next * inv_s, mask=active)
        carry = tl.where(active, to_this * inv_s, carry)
        size, weight = tl.sqrt(gx * gx + gy * gy + gz * gz + _LENGTH_EPSILON), alpha * transmittance
        outward = tl.where(is_valid, error_gradient * 2 * (size - 1) / size, 0.0)
        x, y, z = weight * nx + outward * gx, weight * ny + outward * gy, weight * nz + outward * gz
        if PER_INTERVAL:
            store3(grad_gradients, index, x, y, z, active)
        else:
            x, y, z = x / 2, y / 2, z / 2
            store3(grad_gradients, index + PIXELS, carry_x + x, carry_y + y, carry_z + z, active)
            carry_x, carry_y = tl.where(active, x, carry_x), tl.where(active, y, carry_y)
            carry_z = tl.where(active, z, carry_z)
        next_f, next_phi, next_depth, next_x, next_y, next_z = (
            this_f,
            phi,
            depth,
            this_x,
            this_y,
            this_z,
        )
        plane, index = plane - 1, index - PIXELS
        active = in_range & (plane >= begin)
    any_planes, index = in_range & (last >= begin), begin * PIXELS + pixel
    tl.store(grad_f + index, carry, mask=any_planes)
    if not PER_INTERVAL:
        store3(grad_gradients, index, carry_x, carry_y, carry_z, any_planes)
    tl.store(grad_sharpness + ray, total, mask=in_range)
