"""The kernels of a network with one hidden layer: f = second . softplus(first z + bias) + end.

Arguments of all: z as points xs (N, 3) and their `features` (N, FEATURES), `first` (WIDTH, 3 +
FEATURES), `bias` and `second` (WIDTH), `end` (1). A program takes POINTS of them and UNITS hidden
units at a time, in tiles whose sides, INPUTS too, are powers of two and at least 16.
"""

import triton
import triton.language as tl

BETA = tl.constexpr(100.0)


@triton.jit
def _softplus(h):
    """log(1 + exp(BETA h)) / BETA and its first and second derivatives."""
    small = tl.exp(tl.abs(h) * -BETA)
    whole = 1.0 + small
    slope = tl.where(h >= 0, 1.0, small) / whole
    return tl.maximum(h, 0.0) + tl.log(whole) / BETA, slope, small * BETA / (whole * whole)


@triton.jit
def _units(
    first,
    bias,
    second,
    begin,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    INPUTS: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Of UNITS hidden units: `first`, transposed (INPUTS, UNITS), bias and second (1, UNITS)."""
    row, unit = tl.arange(0, INPUTS)[:, None], begin + tl.arange(0, UNITS)[None, :]
    real = unit < WIDTH
    place = unit * (3 + FEATURES) + row
    weights = tl.load(first + place, mask=real & (row < 3 + FEATURES), other=0.0)
    incoming = tl.load(bias + unit, mask=real, other=0.0)
    return weights, incoming, tl.load(second + unit, mask=real, other=0.0)


@triton.jit
def _places(points, count, FEATURES: tl.constexpr, INPUTS: tl.constexpr):
    """Where inputs (POINTS, INPUTS) are: in xs, and in features."""
    column = tl.arange(0, INPUTS)[None, :]
    real = (points < count)[:, None]
    in_xs, in_features = points[:, None] * 3 + column, points[:, None] * FEATURES + column - 3
    return in_xs, real & (column < 3), in_features, real & (column >= 3) & (column < 3 + FEATURES)


@triton.jit
def _inputs(xs, features, points, count, FEATURES: tl.constexpr, INPUTS: tl.constexpr):
    """Inputs of points (POINTS, INPUTS)."""
    in_xs, are_xs, in_features, are_features = _places(points, count, FEATURES, INPUTS)
    x = tl.load(xs + in_xs, mask=are_xs, other=0.0)
    return x + tl.load(features + in_features, mask=are_features, other=0.0)


@triton.jit
def _put(xs, features, z, points, count, FEATURES: tl.constexpr, INPUTS: tl.constexpr):
    """Store what belongs to inputs, (POINTS, INPUTS)."""
    in_xs, are_xs, in_features, are_features = _places(points, count, FEATURES, INPUTS)
    tl.store(xs + in_xs, z, mask=are_xs)
    tl.store(features + in_features, z, mask=are_features)


@triton.jit
def head_values(
    xs,
    features,
    first,
    bias,
    second,
    end,
    values,
    by_xs,
    by_features,
    count,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    INPUTS: tl.constexpr,
    UNITS: tl.constexpr,
    POINTS: tl.constexpr,
    PRECISION: tl.constexpr,
    SLOPES: tl.constexpr,
):
    """values (N): f; by_xs, by_features, if SLOPES: its derivatives by the inputs."""
    points = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    z = _inputs(xs, features, points, count, FEATURES, INPUTS)
    f = tl.zeros((POINTS,), tl.float32) + tl.load(end)
    by_z = tl.zeros((POINTS, INPUTS), tl.float32)
    for begin in range(0, WIDTH, UNITS):
        weights, incoming, outgoing = _units(
            first, bias, second, begin, FEATURES, WIDTH, INPUTS, UNITS
        )
        h = tl.dot(z, weights, input_precision=PRECISION) + incoming
        soft, slope, _ = _softplus(h)
        f += tl.sum(soft * outgoing, axis=1)
        if SLOPES:
            by_z = tl.dot(slope * outgoing, tl.trans(weights), by_z, input_precision=PRECISION)
    tl.store(values + points, f, mask=points < count)
    if SLOPES:
        _put(by_xs, by_features, by_z, points, count, FEATURES, INPUTS)


@triton.jit
def head_input_derivatives(
    xs,
    features,
    first,
    bias,
    second,
    gradients,
    x_directions,
    directions,
    by_xs,
    by_features,
    count,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    INPUTS: tl.constexpr,
    UNITS: tl.constexpr,
    POINTS: tl.constexpr,
    PRECISION: tl.constexpr,
    SLOPES: tl.constexpr,
):
    """Derivatives by the inputs of <values, gradients (N)> and, if SLOPES, <their derivatives by
    the inputs, directions (x_directions (N, 3), directions (N, FEATURES))>: by_xs, by_features.

    With h = first z + bias and a = first direction, the derivative by h is
    gradient second s'(h) + second s''(h) a.
    """
    points = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    z = _inputs(xs, features, points, count, FEATURES, INPUTS)
    gradient = tl.load(gradients + points, mask=points < count, other=0.0)[:, None]
    if SLOPES:
        direction = _inputs(x_directions, directions, points, count, FEATURES, INPUTS)
    by_z = tl.zeros((POINTS, INPUTS), tl.float32)
    for begin in range(0, WIDTH, UNITS):
        weights, incoming, outgoing = _units(
            first, bias, second, begin, FEATURES, WIDTH, INPUTS, UNITS
        )
        h = tl.dot(z, weights, input_precision=PRECISION) + incoming
        _, slope, curvature = _softplus(h)
        by_h = gradient * slope
        if SLOPES:
            by_h += curvature * tl.dot(direction, weights, input_precision=PRECISION)
        by_z = tl.dot(by_h * outgoing, tl.trans(weights), by_z, input_precision=PRECISION)
    _put(by_xs, by_features, by_z, points, count, FEATURES, INPUTS)


@triton.jit
def head_weight_derivatives(
    xs,
    features,
    first,
    bias,
    second,
    gradients,
    x_directions,
    directions,
    sums,
    count,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    INPUTS: tl.constexpr,
    UNITS: tl.constexpr,
    POINTS: tl.constexpr,
    PRECISION: tl.constexpr,
    SLOPES: tl.constexpr,
):
    """The same derivatives by `first`, `bias` and `second`: sums (programs, WIDTH, 3 + FEATURES +
    2), of the points that a program has.

    The derivative by a is second s'(h).
    """
    begin = tl.program_id(1) * UNITS
    weights, incoming, outgoing = _units(first, bias, second, begin, FEATURES, WIDTH, INPUTS, UNITS)
    by_weights = tl.zeros((INPUTS, UNITS), tl.float32)
    by_bias, by_second = tl.zeros((UNITS,), tl.float32), tl.zeros((UNITS,), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(count, POINTS), tl.num_programs(0)):
        points = tl.cast(block, tl.int64) * POINTS + tl.arange(0, POINTS)
        z = _inputs(xs, features, points, count, FEATURES, INPUTS)
        gradient = tl.load(gradients + points, mask=points < count, other=0.0)[:, None]
        h = tl.dot(z, weights, input_precision=PRECISION) + incoming
        soft, slope, curvature = _softplus(h)
        by_h = gradient * slope
        to_second = gradient * soft
        if SLOPES:
            direction = _inputs(x_directions, directions, points, count, FEATURES, INPUTS)
            a = tl.dot(direction, weights, input_precision=PRECISION)
            by_h += curvature * a
            to_second += slope * a
            by_a = slope * outgoing
            by_weights = tl.dot(tl.trans(direction), by_a, by_weights, input_precision=PRECISION)
        by_h *= outgoing
        by_weights = tl.dot(tl.trans(z), by_h, by_weights, input_precision=PRECISION)
        by_bias += tl.sum(by_h, axis=0)
        by_second += tl.sum(to_second, axis=0)
    row, unit = tl.arange(0, INPUTS)[:, None], begin + tl.arange(0, UNITS)
    sums += (tl.program_id(0) * WIDTH + unit) * (5 + FEATURES)
    real = unit < WIDTH
    tl.store(sums[None, :] + row, by_weights, mask=real[None, :] & (row < 3 + FEATURES))
    tl.store(sums + 3 + FEATURES, by_bias, mask=real)
    tl.store(sums + 4 + FEATURES, by_second, mask=real)
