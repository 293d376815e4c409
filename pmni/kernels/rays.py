"""Rays against a surface, one thread a ray: where they meet it, and where they come nearest."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from pmni.errors import DivergenceError
from pmni.kernels.band import SIZES, arguments, band_value
from pmni.kernels.devices import device_of
from pmni.kernels.types import NarrowBandTensors
from pmni.kernels.vectors import load3

RAYS = 32
"""A program's: one warp, so that no ray waits for those of other warps."""


def first_crossings(
    band: NarrowBandTensors,
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    near: Float[Tensor, " N"],
    far: Float[Tensor, " N"],
    least_step: float,
    most_steps: int | None,
    step_factor: float,
    refinements: int,
) -> Float[Tensor, " N"]:
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
            **arguments(band),
        )
    if int(bad):
        raise DivergenceError("sphere tracing: the surface model has non-finite values")
    return found


def least_values(
    band: NarrowBandTensors,
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    near: Float[Tensor, " N"],
    far: Float[Tensor, " N"],
    step: float,
    halvings: int,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Distances and values as `pmni.sdf.closest_approach`."""
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
            **arguments(band),
        )
    return at, least


@triton.jit(do_not_specialize=["count", "most_steps", *SIZES])
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
    wrong, at_once, crossed = ray < 0, ray < 0, ray < 0  # none yet
    # Where f is looked at; the last two points of rays that have crossed, and their values.
    t = tl.zeros_like(near)
    a, b, value_a, value_b = t, t, t + 1, t - 1
    before, value_before, previous = t, t, t
    steps, refined = tl.zeros_like(ray), tl.zeros_like(ray)
    # One loop for rays that march and rays that have crossed: the code of a value is long.
    while tl.max(active.to(tl.int32), 0) > 0:
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        value = band_value(x, y, z, active, values, table, base, cells, side, base_cells, DENSE)
        wrong = wrong | (active & ((tl.abs(value) < float("inf")) == 0))
        outside = value >= 0
        # The end that stays counts half if it has stayed before (Illinois).
        half = tl.where(outside == (previous > 0), tl.where(previous == 0, 1.0, 0.5), 1.0)
        closer = active & crossed
        a, b = tl.where(closer & outside, t, a), tl.where(closer & (outside == 0), t, b)
        value_a = tl.where(closer, tl.where(outside, value, half * value_a), value_a)
        value_b = tl.where(closer, tl.where(outside, half * value_b, value), value_b)
        previous = tl.where(closer, tl.where(outside, 1.0, -1.0), previous)
        refined += closer.to(tl.int32)
        marching = active & (crossed == 0)
        now = marching & (value < 0)
        at_once = at_once | (now & (steps == 0))
        now = now & (steps > 0)
        a, value_a = tl.where(now, before, a), tl.where(now, value_before, value_a)
        b, value_b = tl.where(now, t, b), tl.where(now, value, value_b)
        crossed = crossed | now
        marching = marching & outside & (t < span) & (steps != most_steps)
        active = marching | (crossed & (refined < REFINEMENTS))
        before = tl.where(marching, t, before)
        value_before = tl.where(marching, value, value_before)
        ahead = tl.minimum(t + tl.maximum(STEP_FACTOR * value, least_step), span)
        t = tl.where(marching, ahead, a + (b - a) * (value_a / (value_a - value_b)))
        steps += 1
    distance = near + a + (b - a) * (value_a / (value_a - value_b))
    distance = tl.where(at_once, near, distance)
    tl.store(found + ray, tl.where(crossed | at_once, distance, float("nan")), mask=real)
    tl.atomic_max(bad + ray * 0, wrong.to(tl.int32), mask=wrong)


@triton.jit(do_not_specialize=["count", *SIZES])
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
    real, marching = active, active
    t, at = near, near
    best = tl.zeros_like(near) + float("inf")
    width, trial = tl.zeros_like(near) + step, tl.zeros_like(ray)
    # One loop for rays that march and rays that halve their steps: the code of a value is long.
    while tl.max(active.to(tl.int32), 0) > 0:
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        value = band_value(x, y, z, active, values, table, base, cells, side, base_cells, DENSE)
        lower = active & (value < best)
        best, at = tl.where(lower, value, best), tl.where(lower, t, at)
        further = t + tl.maximum(0.9 * (value - best), step)
        marching = marching & (further < far)
        # To either side of the best, at half of the last width each time.
        width = tl.where((marching == 0) & (trial % 2 == 0), width / 2, width)
        t = tl.where(marching, further, at + tl.where(trial % 2 == 0, -width, width))
        active = real & (marching | (trial < 2 * HALVINGS))
        trial += (marching == 0).to(tl.int32)
    tl.store(found + ray, at, mask=real)
    tl.store(least + ray, best, mask=real)
