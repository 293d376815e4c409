"""NeuS weights and what they accumulate, one thread a ray, by Triton kernels: the twin is in
`rendering.compositing`. Sums are in the order of the planes, so they are the same every time."""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from pmni.kernels.constants import ALPHA_EPSILON, LENGTH_EPSILON
from pmni.kernels.devices import device_of
from pmni.kernels.types import Patches, Planes
from pmni.kernels.vectors import load3, store3

RAYS = 32
"""A program's: one warp, so that no ray waits for those of other warps."""
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
    """Opacity, distance, normal in the frame of the samples' gradients, and slope error."""
    found: tuple[Tensor, Tensor, Tensor, Tensor] = _Composite.apply(
        f,
        gradient,
        inv_s,
        per_interval,
        patches.m,
        planes.z,
        planes.valid,
        planes.offsets,
    )
    return found


class _Composite(torch.autograd.Function):
    """Differentiable once, by f, its gradients and the sharpness."""

    @staticmethod
    def forward(
        ctx: Any, f: Tensor, gradient: Tensor, inv_s: Tensor, between: bool, *known: Tensor
    ) -> tuple[Tensor, ...]:
        f, gradient = f.contiguous(), gradient.contiguous()
        m, *planes = (tensor.contiguous() for tensor in known)
        through = torch.empty_like(f)
        opacity, distance, error = (m.new_empty(m.shape[:3]) for _ in range(3))
        normal = torch.empty_like(m)
        given = (m, *planes, f, gradient, inv_s, through)
        _launch(_accumulate, between, given, (opacity, distance, normal, error))
        ctx.save_for_backward(*given)
        ctx.between = between
        return opacity, distance, normal, error

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        m, _, _, _, f, gradient, *_ = given = ctx.saved_tensors
        by_f, by_gradient = torch.zeros_like(f), torch.zeros_like(gradient)
        by_inv_s = m.new_empty(m.shape[:3])
        outputs = (*(one.contiguous() for one in gradients), by_f, by_gradient, by_inv_s)
        _launch(_accumulate_derivatives, ctx.between, given, outputs)
        sharpness = by_inv_s.sum() if ctx.needs_input_grad[2] else None
        return by_f, by_gradient, sharpness, None, None, None, None, None


def _launch(
    kernel: Any, between: bool, given: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
) -> None:
    m, z, joined, *rest = given
    pixels = m.shape[1] * m.shape[2]
    rays = len(m) * pixels
    if rays == 0:
        return
    with device_of(m):
        kernel[(triton.cdiv(rays, RAYS),)](
            m,
            z,
            joined.view(torch.uint8),
            *rest,
            *outputs,
            rays,
            PIXELS=pixels,
            RAYS=RAYS,
            BETWEEN=between,
            num_warps=1,
        )


@triton.jit
def _sigmoid(h):
    """Without a large exponential."""
    small = tl.exp(-tl.abs(h))
    return tl.where(h >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def _of_interval(x, y, z, next_x, next_y, next_z, BETWEEN: tl.constexpr):
    """Gradients of intervals, from those of the planes before and behind them unless BETWEEN."""
    if not BETWEEN:
        x, y, z = (x + next_x) / 2, (y + next_y) / 2, (z + next_z) / 2
    return x, y, z


@triton.jit
def _by_phi(raw, phi, next_phi, by_alpha):
    """Derivatives by h, where phi is the sigmoid of h, and by the next plane's h."""
    by_raw = tl.where((raw >= 0) & (raw <= 1), by_alpha, 0.0)
    to_next = -by_raw / (phi + _ALPHA_EPSILON)
    own = -to_next * next_phi / (phi + _ALPHA_EPSILON) * (phi * (1 - phi))
    return own, to_next * next_phi * (1 - next_phi)


@triton.jit
def _rays(ms, first, rays, PIXELS: tl.constexpr, RAYS: tl.constexpr):
    """Rays, which there are, their pixels, first and last planes, and lengths at z = 1."""
    ray = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    real = ray < rays
    patch = ray // PIXELS
    begin = tl.load(first + patch, mask=real, other=0)
    last = tl.load(first + patch + 1, mask=real, other=0) - 1
    x, y, z = load3(ms, ray, real)
    return ray, real, ray % PIXELS, begin, last, tl.sqrt(x * x + y * y + z * z)


@triton.jit
def _accumulate(
    ms,
    depths,
    joined,
    first,
    f,
    gradients,
    sharpness,
    through,
    opacities,
    distances,
    normals,
    errors,
    rays,
    PIXELS: tl.constexpr,
    RAYS: tl.constexpr,
    BETWEEN: tl.constexpr,
):
    """Of the rays; and through (M, C), the transmittance in front of each interval."""
    ray, real, pixel, plane, last, length = _rays(ms, first, rays, PIXELS, RAYS)
    inv_s = tl.load(sharpness)
    place = plane * PIXELS + pixel
    active = real & (plane < last)
    phi = _sigmoid(tl.load(f + place, mask=active, other=0.0) * inv_s)
    depth = tl.load(depths + plane, mask=active, other=0.0)
    x, y, z = load3(gradients, place, active)
    rest = tl.zeros((RAYS,), tl.float32) + 1
    opacity, distance = tl.zeros((RAYS,), tl.float32), tl.zeros((RAYS,), tl.float32)
    nx, ny, nz = tl.zeros_like(opacity), tl.zeros_like(opacity), tl.zeros_like(opacity)
    error = tl.zeros_like(opacity)
    while tl.max(active.to(tl.int32), 0) > 0:
        on = active & (tl.load(joined + plane, mask=active, other=0) != 0)
        next_phi = _sigmoid(tl.load(f + place + PIXELS, mask=active, other=0.0) * inv_s)
        next_depth = tl.load(depths + plane + 1, mask=active, other=0.0)
        next_x, next_y, next_z = load3(gradients, place + PIXELS, active)
        alpha = (phi - next_phi + _ALPHA_EPSILON) / (phi + _ALPHA_EPSILON)
        alpha = tl.where(on, tl.minimum(tl.maximum(alpha, 0.0), 1.0), 0.0)
        gx, gy, gz = _of_interval(x, y, z, next_x, next_y, next_z, BETWEEN)
        weight = alpha * rest
        opacity += weight
        distance += weight * (depth + next_depth) / 2
        nx += weight * gx
        ny += weight * gy
        nz += weight * gz
        off = tl.sqrt(gx * gx + gy * gy + gz * gz + _LENGTH_EPSILON) - 1
        error += tl.where(on, off * off, 0.0)
        tl.store(through + place, rest, mask=active)
        rest *= 1 - alpha
        phi, depth, x, y, z = next_phi, next_depth, next_x, next_y, next_z
        plane += 1
        place += PIXELS
        active = real & (plane < last)
    tl.store(opacities + ray, opacity, mask=real)
    tl.store(distances + ray, distance * length, mask=real)
    store3(normals, ray, nx, ny, nz, real)
    tl.store(errors + ray, error, mask=real)


@triton.jit
def _accumulate_derivatives(
    ms,
    depths,
    joined,
    first,
    f,
    gradients,
    sharpness,
    through,
    by_opacity,
    by_distance,
    by_normal,
    by_error,
    by_f,
    by_gradients,
    by_sharpness,
    rays,
    PIXELS: tl.constexpr,
    RAYS: tl.constexpr,
    BETWEEN: tl.constexpr,
):
    """From the derivatives by what `_accumulate` gives: by f, gradients and, ray by ray, sharpness.

    From the last plane to the first. With q_i what a unit of the weight alpha_i T_i is worth, and
    R_i the worth of all from the interval i on for a ray that gets there,
    R_i = alpha_i q_i + (1 - alpha_i) R_i+1, and the derivative by alpha_i is T_i (q_i - R_i+1).
    """
    ray, real, pixel, begin, last, length = _rays(ms, first, rays, PIXELS, RAYS)
    inv_s = tl.load(sharpness)
    seen = tl.load(by_opacity + ray, mask=real, other=0.0)
    far = tl.load(by_distance + ray, mask=real, other=0.0) * length / 2
    nx, ny, nz = load3(by_normal, ray, real)
    wrong = tl.load(by_error + ray, mask=real, other=0.0)
    worth, total = tl.zeros((RAYS,), tl.float32), tl.zeros((RAYS,), tl.float32)
    plane = last - 1  # where the interval begins
    place = plane * PIXELS + pixel
    active = real & (plane >= begin)
    next_f = tl.load(f + place + PIXELS, mask=active, other=0.0)
    next_phi, next_depth = _sigmoid(next_f * inv_s), tl.load(depths + last, mask=active, other=0.0)
    next_x, next_y, next_z = load3(gradients, place + PIXELS, active)
    # What the plane behind the interval has from those behind it.
    kept = tl.zeros_like(worth)
    kept_x, kept_y, kept_z = tl.zeros_like(worth), tl.zeros_like(worth), tl.zeros_like(worth)
    while tl.max(active.to(tl.int32), 0) > 0:
        on = active & (tl.load(joined + plane, mask=active, other=0) != 0)
        own_f = tl.load(f + place, mask=active, other=0.0)
        phi = _sigmoid(own_f * inv_s)
        depth = tl.load(depths + plane, mask=active, other=0.0)
        ox, oy, oz = load3(gradients, place, active)
        raw = (phi - next_phi + _ALPHA_EPSILON) / (phi + _ALPHA_EPSILON)
        alpha = tl.where(on, tl.minimum(tl.maximum(raw, 0.0), 1.0), 0.0)
        gx, gy, gz = _of_interval(ox, oy, oz, next_x, next_y, next_z, BETWEEN)
        value = seen + far * (depth + next_depth) + nx * gx + ny * gy + nz * gz
        rest = tl.load(through + place, mask=active, other=0.0)
        own, to_next = _by_phi(raw, phi, next_phi, tl.where(on, rest * (value - worth), 0.0))
        worth = alpha * value + (1 - alpha) * worth
        total += own * own_f + to_next * next_f
        tl.store(by_f + place + PIXELS, kept + to_next * inv_s, mask=active)
        kept = tl.where(active, own * inv_s, kept)
        size, weight = tl.sqrt(gx * gx + gy * gy + gz * gz + _LENGTH_EPSILON), alpha * rest
        outward = tl.where(on, wrong * 2 * (size - 1) / size, 0.0)
        x, y, z = weight * nx + outward * gx, weight * ny + outward * gy, weight * nz + outward * gz
        if BETWEEN:
            store3(by_gradients, place, x, y, z, active)
        else:
            x, y, z = x / 2, y / 2, z / 2
            store3(by_gradients, place + PIXELS, kept_x + x, kept_y + y, kept_z + z, active)
            kept_x, kept_y = tl.where(active, x, kept_x), tl.where(active, y, kept_y)
            kept_z = tl.where(active, z, kept_z)
        next_f, next_phi, next_depth, next_x, next_y, next_z = own_f, phi, depth, ox, oy, oz
        plane, place = plane - 1, place - PIXELS
        active = real & (plane >= begin)
    any_planes, place = real & (last >= begin), begin * PIXELS + pixel
    tl.store(by_f + place, kept, mask=any_planes)
    if not BETWEEN:
        store3(by_gradients, place, kept_x, kept_y, kept_z, any_planes)
    tl.store(by_sharpness + ray, total, mask=real)
