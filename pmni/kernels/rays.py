"""Rays against a surface, one thread a ray: where they meet it, and where they come nearest."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from pmni.errors import DivergenceError
from pmni.fields.band import BandSDF
from pmni.kernels.band import arguments, band_value
from pmni.kernels.devices import device_of
from pmni.kernels.vectors import load3

RAYS = 32
"""A program's: one warp, so that no ray waits for those of other warps."""


def first_crossings(
    sdf: BandSDF,
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    near: Float[Tensor, "N"],
    far: Float[Tensor, "N"],
    least_step: float,
    most_steps: int | None,
    step_factor: float,
    refinements: int,
) -> Float[Tensor, "N"]:
    """Distances as `rendering.sphere_tracing.trace` finds them; NaN for misses."""
    found = torch.empty_like(near)
    bad = torch.zeros(1, dtype=torch.int32, device=near.device)
    rays = [part.contiguous() for part in (origins, directions, near, far)]
    with device_of(near):
        _first_crossings[(triton.cdiv(len(near), RAYS),)](
            *rays,
            found,
            bad,
            len(near),
            least_step,
            -1 if most_steps is None else most_steps,
            STEP_FACTOR=step_factor,
            REFINEMENTS=refinements,
            RAYS=RAYS,
            num_warps=1,
            **arguments(sdf),
        )
    if int(bad):
        raise DivergenceError("sphere tracing: the surface model has non-finite values")
    return found


def least_values(
    sdf: BandSDF,
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    near: Float[Tensor, "N"],
    far: Float[Tensor, "N"],
    step: float,
    halvings: int,
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Distances and values as `refinement.rays.least_value` finds them."""
    at, least = torch.empty_like(near), torch.empty_like(near)
    rays = [part.contiguous() for part in (origins, directions, near, far)]
    with device_of(near):
        _least_values[(triton.cdiv(len(near), RAYS),)](
            *rays,
            at,
            least,
            len(near),
            step,
            HALVINGS=halvings,
            RAYS=RAYS,
            num_warps=1,
            **arguments(sdf),
        )
    return at, least


@triton.jit
def _first_crossings(
    origins,
    directions,
    nears,
    fars,
    found,
    bad,
    count,
    least_step,
    most_steps,
    values,
    table,
    base,
    cells,
    side,
    base_cells,
    DENSE: tl.constexpr,
    STEP_FACTOR: tl.constexpr,
    REFINEMENTS: tl.constexpr,
    RAYS: tl.constexpr,
):
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    real = ray < count
    ox, oy, oz = load3(origins, ray, real)
    dx, dy, dz = load3(directions, ray, real)
    near = tl.load(nears + ray, mask=real, other=0.0)
    span = tl.load(fars + ray, mask=real, other=0.0) - near
    ox, oy, oz = ox + near * dx, oy + near * dy, oz + near * dz
    active = real & (span > 0)
    f = band_value(ox, oy, oz, active, values, table, base, cells, side, base_cells, DENSE)
    wrong = active & ((tl.abs(f) < float("inf")) == 0)
    at_once = active & (f < 0)
    active = active & (f >= 0)
    t = tl.zeros_like(near)
    # The last two points of the rays that have crossed.
    a, b, value_a, value_b = t, t, t + 1, t - 1
    crossed = active & (f < 0)
    steps = 0
    while (tl.max(active.to(tl.int32), 0) > 0) & (steps != most_steps):
        steps += 1
        ahead = tl.minimum(t + tl.maximum(STEP_FACTOR * f, least_step), span)
        x, y, z = ox + ahead * dx, oy + ahead * dy, oz + ahead * dz
        value = band_value(x, y, z, active, values, table, base, cells, side, base_cells, DENSE)
        wrong = wrong | (active & ((tl.abs(value) < float("inf")) == 0))
        now = active & (value < 0)
        a, value_a = tl.where(now, t, a), tl.where(now, f, value_a)
        b, value_b = tl.where(now, ahead, b), tl.where(now, value, value_b)
        crossed = crossed | now
        active = active & (value >= 0) & (ahead < span)
        t, f = ahead, value
    previous = tl.zeros_like(t)
    for _ in range(REFINEMENTS):
        middle = a + (b - a) * (value_a / (value_a - value_b))
        x, y, z = ox + middle * dx, oy + middle * dy, oz + middle * dz
        value = band_value(x, y, z, crossed, values, table, base, cells, side, base_cells, DENSE)
        outside = value >= 0
        half = tl.where(outside == (previous > 0), tl.where(previous == 0, 1.0, 0.5), 1.0)
        a, b = tl.where(outside, middle, a), tl.where(outside, b, middle)
        # The end that stays counts half if it has stayed before (Illinois).
        value_a = tl.where(outside, value, half * value_a)
        value_b = tl.where(outside, half * value_b, value)
        previous = tl.where(outside, 1.0, -1.0)
    distance = near + a + (b - a) * (value_a / (value_a - value_b))
    distance = tl.where(at_once, near, distance)
    tl.store(found + ray, tl.where(crossed | at_once, distance, float("nan")), mask=real)
    tl.atomic_max(bad + ray * 0, wrong.to(tl.int32), mask=wrong)


@triton.jit
def _least_values(
    origins,
    directions,
    nears,
    fars,
    found,
    least,
    count,
    step,
    values,
    table,
    base,
    cells,
    side,
    base_cells,
    DENSE: tl.constexpr,
    HALVINGS: tl.constexpr,
    RAYS: tl.constexpr,
):
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    active = ray < count
    ox, oy, oz = load3(origins, ray, active)
    dx, dy, dz = load3(directions, ray, active)
    near = tl.load(nears + ray, mask=active, other=0.0)
    far = tl.load(fars + ray, mask=active, other=0.0)
    real = active
    t, at = near, near
    best = tl.zeros_like(near) + float("inf")
    while tl.max(active.to(tl.int32), 0) > 0:
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        value = band_value(x, y, z, active, values, table, base, cells, side, base_cells, DENSE)
        lower = active & (value < best)
        best, at = tl.where(lower, value, best), tl.where(lower, t, at)
        t = t + tl.maximum(0.9 * (value - best), step)
        active = active & (t < far)
    for trial in range(2 * HALVINGS):
        if trial % 2 == 0:
            step = step / 2
        t = at + (step if trial % 2 else -step)
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        value = band_value(x, y, z, real, values, table, base, cells, side, base_cells, DENSE)
        lower = value < best
        best, at = tl.where(lower, value, best), tl.where(lower, t, at)
    tl.store(found + ray, at, mask=real)
    tl.store(least + ray, best, mask=real)
