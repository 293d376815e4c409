"""The kernels of the hash grid: one level of a block of points a program.

Levels come one after another, so that one level's table stays in the cache. Arguments of all:
points xs (N, 3), how many of them are real, if not all, `layout` (L, 5) of the levels, their
entries; features and gradients of features are (N, levels * FEATURES).
"""

import triton
import triton.language as tl

from pmni.fields.hash_grid import PRIMES
from pmni.kernels.counts import number_of

# As signed numbers, whose products have the same low bits.
PRIME_Y, PRIME_Z = tl.constexpr(PRIMES[1] - 2**32), tl.constexpr(PRIMES[2])


@triton.jit
def _level(layout, level):
    """Scale, resolution, entries, the first one, and whether they are hashed."""
    row = layout + level * 5
    scale = tl.load(row).to(tl.float32, bitcast=True)
    first = tl.load(row + 3).to(tl.int64)
    return scale, tl.load(row + 1), tl.load(row + 2), first, tl.load(row + 4) != 0


@triton.jit
def _cell(xs, points, real, scale):
    """The first nodes of the cells in which points lie, and where in them."""
    x = tl.load(xs + points * 3, mask=real, other=0.0) * scale + 0.5
    y = tl.load(xs + points * 3 + 1, mask=real, other=0.0) * scale + 0.5
    z = tl.load(xs + points * 3 + 2, mask=real, other=0.0) * scale + 0.5
    i, j, k = tl.floor(x), tl.floor(y), tl.floor(z)
    return i.to(tl.int32), j.to(tl.int32), k.to(tl.int32), x - i, y - j, z - k


@triton.jit
def _entry(i, j, k, resolution, entries, hashed):
    """Entries of nodes, counted from their level's first. If hashed, entries are a power of two."""
    if hashed:
        index = (i ^ (j * PRIME_Y) ^ (k * PRIME_Z)) & (entries - 1)
    else:
        index = (i + resolution * (j + resolution * k)) % entries
        index = tl.where(index < 0, index + entries, index)
    return index


@triton.jit
def _along(directions, points, real, scale):
    """Directions at points, in cells."""
    x = tl.load(directions + points * 3, mask=real, other=0.0) * scale
    y = tl.load(directions + points * 3 + 1, mask=real, other=0.0) * scale
    z = tl.load(directions + points * 3 + 2, mask=real, other=0.0) * scale
    return x, y, z


@triton.jit
def _there(points, column, count, FEATURES: tl.constexpr):
    """Which of the features (POINTS, PADDED) there are."""
    return (points < count)[:, None] & (column < FEATURES)


@triton.jit
def _columns(points, real, level, levels, FEATURES: tl.constexpr, PADDED: tl.constexpr):
    """Where a level's features of points are, (POINTS, PADDED); their numbers; which are real."""
    column = tl.arange(0, PADDED)[None, :]
    place = (points * levels + level)[:, None] * FEATURES + column
    return place, column, _there(points, column, real, FEATURES)


@triton.jit
def values(
    xs,
    real,
    layout,
    table,
    out,
    count,
    levels,
    FEATURES: tl.constexpr,
    PADDED: tl.constexpr,
    POINTS: tl.constexpr,
):
    """out: the features."""
    points = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    level = tl.program_id(1)
    scale, resolution, entries, first, hashed = _level(layout, level)
    real = number_of(real, count)
    place, column, wanted = _columns(points, real, level, levels, FEATURES, PADDED)
    i, j, k, u, v, w = _cell(xs, points, points < real, scale)
    table += first * FEATURES
    found = tl.zeros((POINTS, PADDED), tl.float32)
    for corner in tl.static_range(8):
        a, b, c = corner % 2, corner // 2 % 2, corner // 4
        entry = _entry(i + a, j + b, k + c, resolution, entries, hashed)
        value = tl.load(table + entry[:, None] * FEATURES + column, mask=wanted, other=0.0)
        weight = (u if a else 1 - u) * (v if b else 1 - v) * (w if c else 1 - w)
        found += weight[:, None] * value
    tl.store(out + place, found, mask=_there(points, column, count, FEATURES))


@triton.jit
def add_to_entries(
    xs,
    real,
    layout,
    gradients,
    slope_gradients,
    directions,
    total,
    units,
    count,
    levels,
    FEATURES: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """total: add the derivative by the table of <features, gradients>, unless these are None, and
    of <directions (N, 3), x_slopes> for the slope_gradients, unless these are.

    Additions to memory are what takes the time, and points that follow one another mostly share a
    cell. So a row goes along STEPS of them and keeps its sums, one for each corner and feature, as
    long as they are of the same entries. They are numbers of units, if total is in fixed point.
    """
    begin = tl.program_id(0).to(tl.int64) * (ROWS * STEPS)
    level = tl.program_id(1)
    scale, resolution, entries, first, hashed = _level(layout, level)
    total += first * FEATURES
    unit = tl.load(units)
    real = number_of(real, count)
    corner, feature = tl.arange(0, 8)[None, :], tl.arange(0, PADDED)[None, None, :]
    a, b, c = corner % 2, corner // 2 % 2, corner // 4
    held = tl.zeros((ROWS, 8), tl.int32) - 1
    sums = tl.zeros((ROWS, 8, PADDED), total.dtype.element_ty)
    for step in range(tl.where(begin < real, STEPS + 1, 0)):
        points = begin + tl.arange(0, ROWS) * STEPS + step
        wanted = (points < real) & (step < STEPS)
        i, j, k, u, v, w = _cell(xs, points, wanted, scale)
        p = tl.where(a == 1, u[:, None], 1 - u[:, None])
        q = tl.where(b == 1, v[:, None], 1 - v[:, None])
        r = tl.where(c == 1, w[:, None], 1 - w[:, None])
        place = ((points * levels + level) * FEATURES)[:, None, None] + feature
        there = wanted[:, None, None] & (feature < FEATURES)
        term = tl.zeros((ROWS, 8, PADDED), tl.float32)
        if gradients is not None:
            gradient = tl.load(gradients + place, mask=there, other=0.0)
            term += (p * q * r)[:, :, None] * gradient
        if slope_gradients is not None:
            x, y, z = _along(directions, points, wanted, scale)
            # With the signs of the corner's weights.
            x = tl.where(a == 1, x[:, None], -x[:, None])
            y = tl.where(b == 1, y[:, None], -y[:, None])
            z = tl.where(c == 1, z[:, None], -z[:, None])
            gradient = tl.load(slope_gradients + place, mask=there, other=0.0)
            term += ((x * q + p * y) * r + p * q * z)[:, :, None] * gradient
        if total.dtype.element_ty == tl.int64:
            term = (term * unit).to(tl.int64)
        entry = _entry(i[:, None] + a, j[:, None] + b, k[:, None] + c, resolution, entries, hashed)
        entry = tl.where(wanted[:, None], entry, held)
        moved = (entry != held) | (step == STEPS)
        to = total + held[:, :, None] * FEATURES + feature
        put = (moved & (held >= 0))[:, :, None] & (feature < FEATURES)
        tl.atomic_add(to, sums, mask=put, sem="relaxed")
        sums = tl.where(moved[:, :, None], term, sums + term)
        held = entry


@triton.jit
def x_slopes(
    xs,
    real,
    layout,
    table,
    gradients,
    out,
    count,
    levels,
    FEATURES: tl.constexpr,
    PADDED: tl.constexpr,
    POINTS: tl.constexpr,
):
    """out (active levels, 3, N): the derivative by x of <features, gradients>."""
    points = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    level = tl.program_id(1)
    scale, resolution, entries, first, hashed = _level(layout, level)
    real = number_of(real, count)
    place, column, wanted = _columns(points, real, level, levels, FEATURES, PADDED)
    gradient = tl.load(gradients + place, mask=wanted, other=0.0)
    i, j, k, u, v, w = _cell(xs, points, points < real, scale)
    table += first * FEATURES
    by_u, by_v, by_w = tl.zeros_like(u), tl.zeros_like(u), tl.zeros_like(u)
    for corner in tl.static_range(8):
        a, b, c = corner % 2, corner // 2 % 2, corner // 4
        entry = _entry(i + a, j + b, k + c, resolution, entries, hashed)
        value = tl.load(table + entry[:, None] * FEATURES + column, mask=wanted, other=0.0)
        product = tl.sum(value * gradient, axis=1)
        p, q, r = u if a else 1 - u, v if b else 1 - v, w if c else 1 - w
        by_u += q * r * (product if a else -product)
        by_v += p * r * (product if b else -product)
        by_w += p * q * (product if c else -product)
    out += level.to(tl.int64) * 3 * count + points
    there = points < count
    tl.store(out, scale * by_u, mask=there)
    tl.store(out + count, scale * by_v, mask=there)
    tl.store(out + 2 * count, scale * by_w, mask=there)


@triton.jit
def second_derivatives(
    xs,
    real,
    layout,
    table,
    gradients,
    directions,
    along,
    out,
    count,
    levels,
    FEATURES: tl.constexpr,
    PADDED: tl.constexpr,
    POINTS: tl.constexpr,
):
    """Derivatives of <directions (N, 3), x_slopes>: by the gradients (along, the features'
    derivatives in the directions), and by x (out (active levels, 3, N)).
    """
    points = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    level = tl.program_id(1)
    scale, resolution, entries, first, hashed = _level(layout, level)
    real = number_of(real, count)
    place, column, wanted = _columns(points, real, level, levels, FEATURES, PADDED)
    gradient = tl.load(gradients + place, mask=wanted, other=0.0)
    du, dv, dw = _along(directions, points, points < real, scale)
    i, j, k, u, v, w = _cell(xs, points, points < real, scale)
    table += first * FEATURES
    by_u, by_v, by_w = tl.zeros_like(u), tl.zeros_like(u), tl.zeros_like(u)
    found = tl.zeros((POINTS, PADDED), tl.float32)
    for corner in tl.static_range(8):
        a, b, c = corner % 2, corner // 2 % 2, corner // 4
        entry = _entry(i + a, j + b, k + c, resolution, entries, hashed)
        value = tl.load(table + entry[:, None] * FEATURES + column, mask=wanted, other=0.0)
        product = tl.sum(value * gradient, axis=1)
        p, q, r = u if a else 1 - u, v if b else 1 - v, w if c else 1 - w
        # The direction, with the signs of the corner's weights.
        x, y, z = du if a else -du, dv if b else -dv, dw if c else -dw
        weight = (x * q + p * y) * r + p * q * z
        found += weight[:, None] * value
        by_u += (y * r + q * z) * (product if a else -product)
        by_v += (x * r + p * z) * (product if b else -product)
        by_w += (x * q + p * y) * (product if c else -product)
    tl.store(along + place, found, mask=_there(points, column, count, FEATURES))
    out += level.to(tl.int64) * 3 * count + points
    there = points < count
    tl.store(out, scale * by_u, mask=there)
    tl.store(out + count, scale * by_v, mask=there)
    tl.store(out + 2 * count, scale * by_w, mask=there)
