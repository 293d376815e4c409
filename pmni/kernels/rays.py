"""Sphere tracing and closest approach of rays to a narrow-band SDF, one thread a ray."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from pmni.errors import DivergenceError
from pmni.kernels.devices import device_guard
from pmni.kernels.load_store import load3
from pmni.kernels.narrow_band import SIZES, arguments, band_value
from pmni.kernels.types import NarrowBandTensors

RAYS = 32
"""Rays of a program: one warp, so that no ray waits for those of other warps."""


def first_crossings(
    band: NarrowBandTensors,
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    near: Float[Tensor, " N"],
    far: Float[Tensor, " N"],
    min_step: float,
    max_steps: int | None,
    step_factor: float,
    refinements: int,
) -> Float[Tensor, " N"]:
    """Distances of the first crossings, as `sdf.sphere_tracing.trace`; NaN for misses."""
    result = torch.empty_like(near)
    num_invalid = torch.zeros(1, dtype=torch.int32, device=near.device)
    rays = [part.contiguous() for part in (origins, directions, near, far)]
    with device_guard(near):
        _first_crossings[(triton.cdiv(len(near), RAYS),)](
            *rays,
            result,
            num_invalid,
            len(near),
            min_step,
            -1 if max_steps is None else max_steps,
            STEP_FACTOR=step_factor,
            REFINEMENTS=refinements,
            RAYS=RAYS,
            num_warps=1,
            **arguments(band),
        )
    if int(num_invalid):
        raise DivergenceError("sphere tracing: the surface model has non-finite values")
    return result


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
    at, minimum = torch.empty_like(near), torch.empty_like(near)
    rays = [part.contiguous() for part in (origins, directions, near, far)]
    with device_guard(near):
        _least_values[(triton.cdiv(len(near), RAYS),)](
            *rays,
            at,
            minimum,
            len(near),
            step,
            HALVINGS=halvings,
            RAYS=RAYS,
            num_warps=1,
            **arguments(band),
        )
    return at, minimum


@triton.jit(do_not_specialize=["count", "max_steps", *SIZES])
def _first_crossings(
    origins,
    directions,
    nears,
    fars,
    result,
    num_invalid,
    count,
    min_step,
    max_steps,
    values,
    block_numbers,
    background,
    cells,
    side,
    background_cells,
    DENSE: tl.constexpr,
    STEP_FACTOR: tl.constexpr,
    REFINEMENTS: tl.constexpr,
    RAYS: tl.constexpr,
):
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    in_range = ray < count
    ox, oy, oz = load3(origins, ray, in_range)
    dx, dy, dz = load3(directions, ray, in_range)
    near = tl.load(nears + ray, mask=in_range, other=0.0)
    span = tl.load(fars + ray, mask=in_range, other=0.0) - near
    ox, oy, oz = ox + near * dx, oy + near * dy, oz + near * dz
    active = in_range & (span > 0)
    is_invalid, starts_inside, crossed = ray < 0, ray < 0, ray < 0  # none yet
    # Where f is looked at; the last two points of rays that have crossed, and their values.
    t = tl.zeros_like(near)
    a, b, value_a, value_b = t, t, t + 1, t - 1
    before, value_before, previous = t, t, t
    steps, refined = tl.zeros_like(ray), tl.zeros_like(ray)
    # One loop for rays that march and rays that have crossed: the code of a value is long.
    while tl.max(active.to(tl.int32), 0) > 0:
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        value = band_value(
            x, y, z, active, values, block_numbers, background, cells, side, background_cells, DENSE
        )
        is_invalid = is_invalid | (active & ((tl.abs(value) < float("inf")) == 0))
        outside = value >= 0
        # The end that stays counts half if it has stayed before (Illinois).
        illinois = tl.where(outside == (previous > 0), tl.where(previous == 0, 1.0, 0.5), 1.0)
        refining = active & crossed
        a, b = tl.where(refining & outside, t, a), tl.where(refining & (outside == 0), t, b)
        value_a = tl.where(refining, tl.where(outside, value, illinois * value_a), value_a)
        value_b = tl.where(refining, tl.where(outside, illinois * value_b, value), value_b)
        previous = tl.where(refining, tl.where(outside, 1.0, -1.0), previous)
        refined += refining.to(tl.int32)
        marching = active & (crossed == 0)
        crosses_now = marching & (value < 0)
        starts_inside = starts_inside | (crosses_now & (steps == 0))
        crosses_now = crosses_now & (steps > 0)
        a, value_a = tl.where(crosses_now, before, a), tl.where(crosses_now, value_before, value_a)
        b, value_b = tl.where(crosses_now, t, b), tl.where(crosses_now, value, value_b)
        crossed = crossed | crosses_now
        marching = marching & outside & (t < span) & (steps != max_steps)
        active = marching | (crossed & (refined < REFINEMENTS))
        before = tl.where(marching, t, before)
        value_before = tl.where(marching, value, value_before)
        next_t = tl.minimum(t + tl.maximum(STEP_FACTOR * value, min_step), span)
        t = tl.where(marching, next_t, a + (b - a) * (value_a / (value_a - value_b)))
        steps += 1
    distance = near + a + (b - a) * (value_a / (value_a - value_b))
    distance = tl.where(starts_inside, near, distance)
    tl.store(result + ray, tl.where(crossed | starts_inside, distance, float("nan")), mask=in_range)
    tl.atomic_max(num_invalid + ray * 0, is_invalid.to(tl.int32), mask=is_invalid)


@triton.jit(do_not_specialize=["count", *SIZES])
def _least_values(
    origins,
    directions,
    nears,
    fars,
    result,
    minimum,
    count,
    step,
    values,
    block_numbers,
    background,
    cells,
    side,
    background_cells,
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
    in_range, marching = active, active
    t, at = near, near
    best = tl.zeros_like(near) + float("inf")
    width, trial = tl.zeros_like(near) + step, tl.zeros_like(ray)
    # One loop for rays that march and rays that halve their steps: the code of a value is long.
    while tl.max(active.to(tl.int32), 0) > 0:
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        value = band_value(
            x, y, z, active, values, block_numbers, background, cells, side, background_cells, DENSE
        )
        lower = active & (value < best)
        best, at = tl.where(lower, value, best), tl.where(lower, t, at)
        next_t = t + tl.maximum(0.9 * (value - best), step)
        marching = marching & (next_t < far)
        # To either side of the best, at half of the last width each time.
        width = tl.where((marching == 0) & (trial % 2 == 0), width / 2, width)
        t = tl.where(marching, next_t, at + tl.where(trial % 2 == 0, -width, width))
        active = in_range & (marching | (trial < 2 * HALVINGS))
        trial += (marching == 0).to(tl.int32)
    tl.store(result + ray, at, mask=in_range)
    tl.store(minimum + ray, best, mask=in_range)
