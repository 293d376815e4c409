"""A fixed number of planes, and the points on them; the host never waits for the device.

Reference implementations: `march_padded` and `plane_points` of `volume_rendering.marching`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from pmni.kernels.devices import device_guard
from pmni.kernels.types import Patches, Planes

CANDIDATES = 256
"""Planes of one patch that a program tests at once."""
POINTS = 256
"""Points that a program handles at once; at most the mean number of a patch for its gradients."""


def march_padded(
    capacity: int,
    patches: Patches,
    occupancy: Float[Tensor, "n n n"],
    max_slope: float,
    truncation: Float[Tensor, ""],
    step: Float[Tensor, ""],
    jitter: Float[Tensor, " P"],
) -> tuple[Planes, Int[Tensor, ""]]:
    """Kernel implementation of `volume_rendering.marching.march_padded`."""
    m = patches.m
    count, h, w = m.shape[:3]
    counts = torch.empty(count, dtype=torch.int32, device=m.device)
    spans = torch.empty(count, 2, dtype=torch.int32, device=m.device)
    patch = torch.zeros(capacity, dtype=torch.int64, device=m.device)
    z = torch.zeros(capacity, device=m.device)
    valid = torch.zeros(capacity, dtype=torch.uint8, device=m.device)
    inputs = (
        m.contiguous(),
        patches.rotation.contiguous(),
        patches.centre.contiguous(),
        jitter.contiguous(),
        truncation,
        step,
        occupancy,
    )
    shape: dict[str, Any] = {
        "resolution": len(occupancy),
        "PIXELS": h * w,
        "MIDDLE": h // 2 * w + w // 2,
        "MAX_SLOPE": max_slope,
        "CANDIDATES": CANDIDATES,
    }
    written = (patch, z, valid, capacity)
    with device_guard(m):
        if count:
            _march[(count,)](*inputs, spans, counts, *written, WRITING=False, **shape)
        ends = counts.cumsum(0)
        first = pad(ends.clamp(max=capacity), (1, 0))
        if count:
            _march[(count,)](*inputs, spans, first, *written, WRITING=True, **shape)
    needed = ends[-1] if count else first[0]
    return Planes(patch, z, valid.view(torch.bool), first), needed


def plane_points(patches: Patches, planes: Planes) -> Float[Tensor, "M h w 3"]:
    """Kernel implementation of `volume_rendering.marching.plane_points`."""
    result: Tensor = _PlanePoints.apply(
        patches.rotation, patches.centre, patches.m, planes.patch, planes.z, planes.offsets
    )
    return result


class _PlanePoints(torch.autograd.Function):
    """Autograd function, once differentiable with respect to the poses."""

    @staticmethod
    def forward(ctx: Any, rotation: Tensor, centre: Tensor, m: Tensor, *planes: Tensor) -> Tensor:
        rotation, centre, m = rotation.contiguous(), centre.contiguous(), m.contiguous()
        ctx.save_for_backward(m, *planes)
        patch, z, first = planes
        pixels = m.shape[1] * m.shape[2]
        x = m.new_empty(len(z), *m.shape[1:])
        total = len(z) * pixels
        with device_guard(m):
            _points[(triton.cdiv(total, POINTS),)](
                rotation, centre, m, patch, z, first, x, total, len(m), PIXELS=pixels, POINTS=POINTS
            )
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        m, _, z, first = ctx.saved_tensors
        grad_rotation, grad_centre = m.new_empty(len(m), 3, 3), m.new_empty(len(m), 3)
        pixels = m.shape[1] * m.shape[2]
        usual = triton.next_power_of_2(len(z) * pixels // max(len(m), 1))
        points = max(32, min(POINTS, usual))
        with device_guard(m):
            _point_derivatives[(len(m),)](
                m,
                z,
                first,
                gradient.contiguous(),
                grad_rotation,
                grad_centre,
                PIXELS=pixels,
                POINTS=points,
                num_warps=max(1, points // 64),
            )
        return grad_rotation, grad_centre, None, None, None, None


@triton.jit
def _row(matrix, row):
    return tl.load(matrix + 3 * row), tl.load(matrix + 3 * row + 1), tl.load(matrix + 3 * row + 2)


@triton.jit
def _interpolate_occupancy(x, y, z, values, resolution, trusted, mask):
    """f between the cells' centres, trilinear, and constant beyond them. Where the nearest cell's
    is above what is `trusted`, that is taken."""
    top = resolution - 1.0
    u = tl.minimum(tl.maximum(((x + 1) * resolution - 1) / 2, 0.0), top)
    v = tl.minimum(tl.maximum(((y + 1) * resolution - 1) / 2, 0.0), top)
    w = tl.minimum(tl.maximum(((z + 1) * resolution - 1) / 2, 0.0), top)
    i, j, k = (u + 0.5).to(tl.int32), (v + 0.5).to(tl.int32), (w + 0.5).to(tl.int32)
    nearest = tl.load(values + (i * resolution + j) * resolution + k, mask=mask, other=0.0)
    near = mask & (tl.abs(nearest) < trusted)
    i = tl.minimum(u.to(tl.int32), resolution - 2)
    j = tl.minimum(v.to(tl.int32), resolution - 2)
    k = tl.minimum(w.to(tl.int32), resolution - 2)
    u, v, w = u - i, v - j, w - k
    result = tl.zeros_like(x)
    for corner in tl.static_range(8):
        a, b, c = corner // 4, corner // 2 % 2, corner % 2
        index = ((i + a) * resolution + j + b) * resolution + k + c
        weight = (u if a else 1 - u) * (v if b else 1 - v) * (w if c else 1 - w)
        result += weight * tl.load(values + index, mask=near, other=0.0)
    return tl.where(near, result, nearest)


@triton.jit
def _middle_ray(ms, rotations, centres, patch, PIXELS: tl.constexpr, MIDDLE: tl.constexpr):
    """A patch's middle ray, z-depth 1; where it begins; the z-depth at which it is nearest to the
    world's origin, and how far it is there from the ray in the patch's corner."""
    u, v, w = _row(ms, patch * PIXELS + MIDDLE)
    rotation = rotations + patch * 9
    a, b, c = _row(rotation, 0)
    x = a * u + b * v + c * w
    a, b, c = _row(rotation, 1)
    y = a * u + b * v + c * w
    a, b, c = _row(rotation, 2)
    z = a * u + b * v + c * w
    ox, oy, oz = _row(centres, patch)
    nearest = -(ox * x + oy * y + oz * z) / (x * x + y * y + z * z)
    first_u, first_v, first_w = _row(ms, patch * PIXELS)
    first_u, first_v, first_w = first_u - u, first_v - v, first_w - w
    corner = tl.sqrt(first_u * first_u + first_v * first_v + first_w * first_w) * nearest
    return x, y, z, ox, oy, oz, nearest, corner


@triton.jit
def _march(
    ms,
    rotations,
    centres,
    jitters,
    truncation,
    step_size,
    values,
    spans,
    counts,
    patch_of,
    depths,
    valid,
    capacity,
    resolution,
    PIXELS: tl.constexpr,
    MIDDLE: tl.constexpr,
    MAX_SLOPE: tl.constexpr,
    CANDIDATES: tl.constexpr,
    WRITING: tl.constexpr,
):
    """counts (P): a patch's planes, and spans (P, 2): the numbers of its first and its last one;
    or, if WRITING, the planes within spans, from counts (P + 1) on."""
    patch = tl.program_id(0)
    x, y, z, ox, oy, oz, nearest, corner = _middle_ray(
        ms, rotations, centres, patch.to(tl.int64), PIXELS, MIDDLE
    )
    length2 = x * x + y * y + z * z
    jitter, step, truncation_distance = (
        tl.load(jitters + patch),
        tl.load(step_size),
        tl.load(truncation),
    )
    trusted = truncation_distance + corner + 6.0 / resolution
    length = step * tl.sqrt(length2)
    count = tl.div_rn(2.0, step).to(tl.int32) + 2
    half = count.to(tl.float32) / 2
    num_planes = tl.load(counts + patch).to(tl.int32) if WRITING else count * 0
    stop = count - 1  # the first interval that is not looked at
    index = tl.arange(0, CANDIDATES)
    before, behind = tl.maximum(index - 1, 0), tl.minimum(index + 1, CANDIDATES - 1)
    span = spans + patch * 2
    earliest, latest = count, count * 0 - 1
    chunk, end = latest, count
    if WRITING:
        chunk, end = tl.load(span) - 1, tl.load(span + 1)
    # The first and the last of the candidates are only looked at for the sake of those between.
    while (chunk < end) & (chunk < stop):
        k = chunk + index
        depth = nearest + (k.to(tl.float32) - half + jitter) * step
        px, py, pz = ox + depth * x, oy + depth * y, oz + depth * z
        f = _interpolate_occupancy(px, py, pz, values, resolution, trusted, (k >= 0) & (k <= count))
        ahead = tl.gather(f, behind, 0)
        slope = (ahead - f) / length
        far = truncation_distance + corner * tl.sqrt(tl.maximum(1 - slope * slope, 0.0))
        is_candidate = (k >= 0) & (index < CANDIDATES - 1)
        stop = tl.minimum(stop, tl.min(tl.where(is_candidate & (f < -far), k, count), 0))
        occupied = is_candidate & (ahead < far) & (slope < MAX_SLOPE) & (k < stop) & (depth > 0)
        inner = (index > 0) & (index < CANDIDATES - 1)
        bounds = inner & (occupied | (tl.gather(occupied.to(tl.int32), before, 0) != 0))
        rank = num_planes + tl.cumsum(bounds.to(tl.int32), 0) - 1
        if WRITING:
            mask = bounds & (rank < capacity)
            tl.store(patch_of + rank, patch.to(tl.int64) + tl.zeros_like(k), mask=mask)
            tl.store(depths + rank, depth, mask=mask)
            tl.store(valid + rank, (occupied & (rank < capacity - 1)).to(tl.uint8), mask=mask)
        else:
            earliest = tl.minimum(earliest, tl.min(tl.where(bounds, k, count), 0))
            latest = tl.maximum(latest, tl.max(tl.where(bounds, k, -1), 0))
        num_planes += tl.sum(bounds.to(tl.int32), 0)
        chunk += CANDIDATES - 2
    if not WRITING:
        tl.store(counts + patch, num_planes)
        tl.store(span, earliest)
        tl.store(span + 1, latest)


@triton.jit
def _points(
    rotations,
    centres,
    ms,
    patch_of,
    depths,
    first,
    out,
    total,
    patches,
    PIXELS: tl.constexpr,
    POINTS: tl.constexpr,
):
    """out (total, 3): centre + depth * rotation m; 0 on padding planes."""
    point = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    in_range = point < total
    plane = point // PIXELS
    patch = tl.load(patch_of + plane, mask=in_range, other=0)
    real_plane = in_range & (plane < tl.load(first + patches))
    depth = tl.load(depths + plane, mask=real_plane, other=0.0)
    pixel = ms + 3 * (patch * PIXELS + point % PIXELS)
    u = tl.load(pixel, mask=real_plane, other=0.0)
    v = tl.load(pixel + 1, mask=real_plane, other=0.0)
    w = tl.load(pixel + 2, mask=real_plane, other=0.0)
    for axis in tl.static_range(3):
        row = rotations + patch * 9 + axis * 3
        a = tl.load(row, mask=real_plane, other=0.0)
        b = tl.load(row + 1, mask=real_plane, other=0.0)
        c = tl.load(row + 2, mask=real_plane, other=0.0)
        origin = tl.load(centres + patch * 3 + axis, mask=real_plane, other=0.0)
        tl.store(out + point * 3 + axis, origin + depth * (a * u + b * v + c * w), mask=in_range)


@triton.jit
def _point_derivatives(
    ms,
    depths,
    first,
    gradients,
    grad_rotation,
    grad_centre,
    PIXELS: tl.constexpr,
    POINTS: tl.constexpr,
):
    """grad_rotation (P, 3, 3) and grad_centre (P, 3): sums over a patch's points."""
    patch = tl.program_id(0).to(tl.int64)
    begin = tl.load(first + patch) * PIXELS
    end = tl.load(first + patch + 1) * PIXELS
    for axis in tl.static_range(3):
        a, b = tl.zeros((POINTS,), tl.float32), tl.zeros((POINTS,), tl.float32)
        c, whole = tl.zeros((POINTS,), tl.float32), tl.zeros((POINTS,), tl.float32)
        for chunk in range(begin, end, POINTS):
            point = chunk + tl.arange(0, POINTS)
            in_range = point < end
            gradient = tl.load(gradients + point * 3 + axis, mask=in_range, other=0.0)
            along = gradient * tl.load(depths + point // PIXELS, mask=in_range, other=0.0)
            pixel = ms + 3 * (patch * PIXELS + point % PIXELS)
            a += along * tl.load(pixel, mask=in_range, other=0.0)
            b += along * tl.load(pixel + 1, mask=in_range, other=0.0)
            c += along * tl.load(pixel + 2, mask=in_range, other=0.0)
            whole += gradient
        row = grad_rotation + patch * 9 + axis * 3
        tl.store(row, tl.sum(a, 0))
        tl.store(row + 1, tl.sum(b, 0))
        tl.store(row + 2, tl.sum(c, 0))
        tl.store(grad_centre + patch * 3 + axis, tl.sum(whole, 0))
