"""The kernels of the hash grid; a program computes some levels of a block of points.

Levels come one after another, so that their tables stay in the cache. Arguments of all: points xs
(N, 3), the number `num_valid` of valid ones (None: all), `layout` (L, 5) of the levels, entries.
Features and gradients of features are (levels * FEATURES, N): neighbouring threads have neighbours.

Within a cell u, v and w go from 0 to 1. Corners are at a, b and c, and what is read of the table
are pairs of them, near (a = 0) and far (a = 1). Along y and z a corner has the weights q and r,
whose changes in a direction are dq and dr.
"""

import triton
import triton.language as tl

from pmni.kernels.constants import HASH_PRIMES
from pmni.kernels.padding import valid_count

# As signed numbers, whose products have the same low bits.
PRIME_Y, PRIME_Z = tl.constexpr(HASH_PRIMES[1] - 2**32), tl.constexpr(HASH_PRIMES[2])


@triton.jit
def _level(layout, level):
    """Scale, resolution, number of entries, first entry, and whether entries are hashed."""
    row = layout + level * 5
    scale = tl.load(row).to(tl.float32, bitcast=True)
    first = tl.multiple_of(tl.load(row + 3).to(tl.int64), 8)
    return scale, tl.load(row + 1), tl.load(row + 2), first, tl.load(row + 4) != 0


@triton.jit
def _cell(xs, points, mask, scale):
    """Lowest nodes of the cells that hold the points, and the points' fractions in them."""
    x = tl.load(xs + points * 3, mask=mask, other=0.0) * scale + 0.5
    y = tl.load(xs + points * 3 + 1, mask=mask, other=0.0) * scale + 0.5
    z = tl.load(xs + points * 3 + 2, mask=mask, other=0.0) * scale + 0.5
    i, j, k = tl.floor(x), tl.floor(y), tl.floor(z)
    return i.to(tl.int32), j.to(tl.int32), k.to(tl.int32), x - i, y - j, z - k


@triton.jit
def _entry(i, j, k, resolution, entries, hashed):
    """Table entries of nodes within their level; the size of a hashed level is a power of two."""
    if hashed:
        index = (i ^ (j * PRIME_Y) ^ (k * PRIME_Z)) & (entries - 1)
    else:
        index = (i + resolution * (j + resolution * k)) % entries
        index = tl.where(index < 0, index + entries, index)
    return index


@triton.jit
def _load_directions(directions, points, mask, scale):
    """Directions at points, in units of cells."""
    x = tl.load(directions + points * 3, mask=mask, other=0.0) * scale
    y = tl.load(directions + points * 3 + 1, mask=mask, other=0.0) * scale
    z = tl.load(directions + points * 3 + 2, mask=mask, other=0.0) * scale
    return x, y, z


@triton.jit
def _feature_mask(points, column, count, FEATURES: tl.constexpr):
    """Mask (POINTS, PADDED) of the features that exist."""
    return (points < count)[:, None] & (column < FEATURES)


@triton.jit
def _columns(points, num_valid, count, level, FEATURES: tl.constexpr, PADDED: tl.constexpr):
    """Offsets of a level's features of points, (POINTS, PADDED); their columns; their mask."""
    column = tl.arange(0, PADDED)[None, :]
    index = (level * FEATURES + column).to(tl.int64) * count + points[:, None]
    return index, column, _feature_mask(points, column, num_valid, FEATURES)


@triton.jit
def _pair(table, one, two, column, feature_mask, FEATURES: tl.constexpr):
    """Features (POINTS, PADDED) of the entries of two neighbours along x."""
    if FEATURES == 2:
        # An even entry and the one behind it come as one word of 16 bytes: half of all pairs.
        block = (one >> 1)[:, None] * 4 + tl.arange(0, 4)[None, :]
        some = tl.max(feature_mask.to(tl.int32), axis=1)[:, None] != 0
        words = tl.load(table + block, mask=some, other=0.0)
        even, odd = tl.split(tl.permute(tl.reshape(words, (one.shape[0], 2, 2)), (0, 2, 1)))
        at_even, beside = (one & 1)[:, None] == 0, (two ^ one)[:, None] == 1
        apart = tl.load(table + two[:, None] * 2 + column, mask=feature_mask & ~beside, other=0.0)
        near = tl.where(at_even, even, odd)
        far = tl.where(beside, tl.where(at_even, odd, even), apart)
    else:
        near = tl.load(table + one[:, None] * FEATURES + column, mask=feature_mask, other=0.0)
        far = tl.load(table + two[:, None] * FEATURES + column, mask=feature_mask, other=0.0)
    return near, far


@triton.jit
def _edge(
    table,
    i,
    j,
    k,
    v,
    w,
    corner: tl.constexpr,
    resolution,
    entries,
    hashed,
    column,
    feature_mask,
    FEATURES: tl.constexpr,
):
    """Features at both ends of a cell's edge along x, and the edge's weights along y and z."""
    b, c = corner % 2, corner // 2
    one = _entry(i, j + b, k + c, resolution, entries, hashed)
    two = _entry(i + 1, j + b, k + c, resolution, entries, hashed)
    near, far = _pair(table, one, two, column, feature_mask, FEATURES)
    return near, far, v if b else 1 - v, w if c else 1 - w


@triton.jit
def features(
    xs,
    num_valid,
    layout,
    table,
    directions,
    out,
    count,
    active,
    FEATURES: tl.constexpr,
    PADDED: tl.constexpr,
    POINTS: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """out: the features; or, if `directions` (N, 3) are not None, their derivatives in these."""
    points = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    begin = tl.program_id(1) * LEVELS
    num_valid = valid_count(num_valid, count)
    for level in range(begin, tl.minimum(begin + LEVELS, active)):
        scale, resolution, entries, first, hashed = _level(layout, level)
        index, column, feature_mask = _columns(points, num_valid, count, level, FEATURES, PADDED)
        i, j, k, u, v, w = _cell(xs, points, points < num_valid, scale)
        if directions is not None:
            du, dv, dw = _load_directions(directions, points, points < num_valid, scale)
        rows = table + first * FEATURES
        result = tl.zeros((POINTS, PADDED), tl.float32)
        for corner in tl.static_range(4):
            near, far, q, r = _edge(
                rows,
                i,
                j,
                k,
                v,
                w,
                corner,
                resolution,
                entries,
                hashed,
                column,
                feature_mask,
                FEATURES,
            )
            b, c = corner % 2, corner // 2
            between = (1 - u)[:, None] * near + u[:, None] * far
            if directions is None:
                result += (q * r)[:, None] * between
            else:
                dq, dr = dv if b else -dv, dw if c else -dw
                result += (q * r * du)[:, None] * (far - near) + (dq * r + q * dr)[
                    :, None
                ] * between
        tl.store(out + index, result, mask=_feature_mask(points, column, count, FEATURES))


@triton.jit
def x_derivatives(
    xs,
    num_valid,
    layout,
    table,
    gradients,
    slope_gradients,
    directions,
    out,
    count,
    active,
    FEATURES: tl.constexpr,
    PADDED: tl.constexpr,
    POINTS: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """out (programs of levels, 3, N): the derivative by x of <features, gradients>, unless these
    are None, and of <the features' derivatives in the directions (N, 3), slope_gradients>, unless
    these are."""
    points = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    begin = tl.program_id(1) * LEVELS
    num_valid = valid_count(num_valid, count)
    grad_x = tl.zeros((POINTS,), tl.float32)
    grad_y, grad_z = tl.zeros_like(grad_x), tl.zeros_like(grad_x)
    for level in range(begin, tl.minimum(begin + LEVELS, active)):
        scale, resolution, entries, first, hashed = _level(layout, level)
        index, column, feature_mask = _columns(points, num_valid, count, level, FEATURES, PADDED)
        i, j, k, u, v, w = _cell(xs, points, points < num_valid, scale)
        if gradients is not None:
            gradient = tl.load(gradients + index, mask=feature_mask, other=0.0)
        if slope_gradients is not None:
            slope_gradient = tl.load(slope_gradients + index, mask=feature_mask, other=0.0)
            du, dv, dw = _load_directions(directions, points, points < num_valid, scale)
        rows = table + first * FEATURES
        grad_u, grad_v, grad_w = tl.zeros_like(u), tl.zeros_like(u), tl.zeros_like(u)
        for corner in tl.static_range(4):
            near, far, q, r = _edge(
                rows,
                i,
                j,
                k,
                v,
                w,
                corner,
                resolution,
                entries,
                hashed,
                column,
                feature_mask,
                FEATURES,
            )
            b, c = corner % 2, corner // 2
            if gradients is not None:
                at_near, at_far = tl.sum(near * gradient, axis=1), tl.sum(far * gradient, axis=1)
                slope, between = at_far - at_near, (1 - u) * at_near + u * at_far
                grad_u += q * r * slope
                grad_v += r * (between if b else -between)
                grad_w += q * (between if c else -between)
            if slope_gradients is not None:
                at_near = tl.sum(near * slope_gradient, axis=1)
                at_far = tl.sum(far * slope_gradient, axis=1)
                slope, between = at_far - at_near, (1 - u) * at_near + u * at_far
                dq, dr = dv if b else -dv, dw if c else -dw
                grad_u += (dq * r + q * dr) * slope
                bend = du * r * slope + dr * between
                grad_v += bend if b else -bend
                bend = du * q * slope + dq * between
                grad_w += bend if c else -bend
        grad_x += scale * grad_u
        grad_y += scale * grad_v
        grad_z += scale * grad_w
    out += tl.program_id(1).to(tl.int64) * 3 * count + points
    feature_mask = points < count
    tl.store(out, grad_x, mask=feature_mask)
    tl.store(out + count, grad_y, mask=feature_mask)
    tl.store(out + 2 * count, grad_z, mask=feature_mask)


@triton.jit
def add_to_entries(
    xs,
    num_valid,
    layout,
    gradients,
    slope_gradients,
    directions,
    total,
    units,
    count,
    FEATURES: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Add to `total` the derivatives by the table of the sum that `x_derivatives` differentiates.

    Additions to memory take most of the time, and points that follow one another mostly share a
    cell. So a row goes along STEPS of them and keeps its sums, one for each corner and feature, as
    long as they are of the same entries. They are numbers of units, if total is in fixed point.
    """
    begin = tl.program_id(0).to(tl.int64) * (ROWS * STEPS)
    level = tl.program_id(1)
    scale, resolution, entries, first, hashed = _level(layout, level)
    total += first * FEATURES
    unit = tl.load(units)
    num_valid = valid_count(num_valid, count)
    corner, feature = tl.arange(0, 8)[None, :], tl.arange(0, PADDED)[None, None, :]
    a, b, c = corner % 2, corner // 2 % 2, corner // 4
    held = tl.zeros((ROWS, 8), tl.int32) - 1
    sums = tl.zeros((ROWS, 8, PADDED), total.dtype.element_ty)
    for step in range(tl.where(begin < num_valid, STEPS + 1, 0)):
        points = begin + tl.arange(0, ROWS) * STEPS + step
        mask = (points < num_valid) & (step < STEPS)
        i, j, k, u, v, w = _cell(xs, points, mask, scale)
        p = tl.where(a == 1, u[:, None], 1 - u[:, None])
        q = tl.where(b == 1, v[:, None], 1 - v[:, None])
        r = tl.where(c == 1, w[:, None], 1 - w[:, None])
        index = (level * FEATURES + feature).to(tl.int64) * count + points[:, None, None]
        feature_mask = mask[:, None, None] & (feature < FEATURES)
        term = tl.zeros((ROWS, 8, PADDED), tl.float32)
        if gradients is not None:
            gradient = tl.load(gradients + index, mask=feature_mask, other=0.0)
            term += (p * q * r)[:, :, None] * gradient
        if slope_gradients is not None:
            x, y, z = _load_directions(directions, points, mask, scale)
            # With the signs of the corner's weights.
            x = tl.where(a == 1, x[:, None], -x[:, None])
            y = tl.where(b == 1, y[:, None], -y[:, None])
            z = tl.where(c == 1, z[:, None], -z[:, None])
            gradient = tl.load(slope_gradients + index, mask=feature_mask, other=0.0)
            term += ((x * q + p * y) * r + p * q * z)[:, :, None] * gradient
        if total.dtype.element_ty == tl.int64:
            term = (term * unit).to(tl.int64)
        entry = _entry(i[:, None] + a, j[:, None] + b, k[:, None] + c, resolution, entries, hashed)
        entry = tl.where(mask[:, None], entry, held)
        moved = (entry != held) | (step == STEPS)
        target = total + held[:, :, None] * FEATURES + feature
        store_mask = (moved & (held >= 0))[:, :, None] & (feature < FEATURES)
        tl.atomic_add(target, sums, mask=store_mask, sem="relaxed")
        sums = tl.where(moved[:, :, None], term, sums + term)
        held = entry
