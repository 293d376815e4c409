"""The kernels of a network with one hidden layer: f = second . softplus(first z + bias) + end.

Arguments of all: z as points xs (N, 3) and their `features` (FEATURES, N), `first` (WIDTH, 3 +
FEATURES), `bias` and `second` (WIDTH), `end` (1), and how many points are `real`, if not all: for
the others everything is zero. A program has the weights of all hidden units and goes through some
of the points, POINTS at a time. One of the INPUTS is 1 and has the bias for a weight. INPUTS and
UNITS are powers of two and at least 16.
"""

import triton
import triton.language as tl

from pmni.kernels.counts import number_of

BETA = tl.constexpr(100.0)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _softplus(h):
    """log(1 + exp(BETA h)) / BETA and its first and second derivatives."""
    small = tl.exp2(tl.abs(h) * (-BETA * LOG2_E))
    # log(1 + small): within 2.2e-7, which is the precision of h over BETA.
    log = 0.010764476843178272 * small - 0.05514507740736008
    log = log * small + 0.13467438519001007
    log = log * small - 0.2258979231119156
    log = log * small + 0.3282421827316284
    log = log * small - 0.4994717836380005
    log = (log * small + 0.999981164932251) * small
    inverse = 1.0 / (1.0 + small)
    slope = tl.where(h >= 0, 1.0, small) * inverse
    return tl.maximum(h, 0.0) + log * (1 / BETA), slope, small * BETA * inverse * inverse


@triton.jit
def _units(
    first,
    bias,
    second,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    INPUTS: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Weights of the inputs, (INPUTS, UNITS), and of the hidden units, (1, UNITS)."""
    row, unit = tl.arange(0, INPUTS)[:, None], tl.arange(0, UNITS)[None, :]
    real = unit < WIDTH
    place = unit * (3 + FEATURES) + row
    weights = tl.load(first + place, mask=real & (row < 3 + FEATURES), other=0.0)
    weights += tl.load(bias + unit + row * 0, mask=real & (row == 3 + FEATURES), other=0.0)
    return weights, tl.load(second + unit, mask=real, other=0.0)


@triton.jit
def _places(points, real, count, FEATURES: tl.constexpr, INPUTS: tl.constexpr):
    """Where inputs (POINTS, INPUTS) of points below `real` are: in xs, and in features."""
    column = tl.arange(0, INPUTS)[None, :]
    real = (points < real)[:, None]
    in_xs = points[:, None] * 3 + column
    in_features = (column - 3).to(tl.int64) * count + points[:, None]
    return in_xs, real & (column < 3), in_features, real & (column >= 3) & (column < 3 + FEATURES)


@triton.jit
def _inputs(xs, features, points, real, count, FEATURES: tl.constexpr, INPUTS: tl.constexpr):
    """Inputs of points (POINTS, INPUTS), but for that which is 1."""
    in_xs, are_xs, in_features, are_features = _places(points, real, count, FEATURES, INPUTS)
    x = tl.load(xs + in_xs, mask=are_xs, other=0.0)
    return x + tl.load(features + in_features, mask=are_features, other=0.0)


@triton.jit
def _with_one(z, FEATURES: tl.constexpr, INPUTS: tl.constexpr):
    return tl.where(tl.arange(0, INPUTS)[None, :] == 3 + FEATURES, 1.0, z)


@triton.jit
def _put(xs, features, z, points, real, count, FEATURES: tl.constexpr, INPUTS: tl.constexpr):
    """Store what belongs to the inputs, (POINTS, INPUTS), of points below `real`."""
    in_xs, are_xs, _, _ = _places(points, real, count, FEATURES, INPUTS)
    tl.store(xs + in_xs, z, mask=are_xs)
    _put_features(features, z, points, real, count, FEATURES, INPUTS)


@triton.jit
def _put_features(features, z, points, real, count, FEATURES: tl.constexpr, INPUTS: tl.constexpr):
    """Of that only what belongs to the features."""
    _, _, in_features, are_features = _places(points, real, count, FEATURES, INPUTS)
    tl.store(features + in_features, z, mask=are_features)


@triton.jit
def _first_spare(real, POINTS: tl.constexpr):
    """A program's first block with points that are not real."""
    return real // POINTS + tl.program_id(0)


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
    real,
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
    weights, outgoing = _units(first, bias, second, FEATURES, WIDTH, INPUTS, UNITS)
    constant = tl.load(end)
    real = number_of(real, count)
    for block in range(tl.program_id(0), tl.cdiv(real, POINTS), tl.num_programs(0)):
        points = tl.cast(block, tl.int64) * POINTS + tl.arange(0, POINTS)
        z = _inputs(xs, features, points, real, count, FEATURES, INPUTS)
        h = tl.dot(_with_one(z, FEATURES, INPUTS), weights, input_precision=PRECISION)
        soft, slope, _ = _softplus(h)
        tl.store(values + points, tl.sum(soft * outgoing, axis=1) + constant, mask=points < real)
        if SLOPES:
            by_z = tl.dot(slope * outgoing, tl.trans(weights), input_precision=PRECISION)
            _put(by_xs, by_features, by_z, points, real, count, FEATURES, INPUTS)
    for block in range(_first_spare(real, POINTS), tl.cdiv(count, POINTS), tl.num_programs(0)):
        points = tl.cast(block, tl.int64) * POINTS + tl.arange(0, POINTS)
        spare = tl.where(points < real, count, points)
        tl.store(values + spare, tl.zeros((POINTS,), tl.float32), mask=spare < count)
        if SLOPES:
            nothing = tl.zeros((POINTS, INPUTS), tl.float32)
            _put(by_xs, by_features, nothing, spare, count, count, FEATURES, INPUTS)


@triton.jit
def head_derivatives(
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
    slopes,
    sums,
    real,
    count,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    INPUTS: tl.constexpr,
    UNITS: tl.constexpr,
    POINTS: tl.constexpr,
    PRECISION: tl.constexpr,
    LOWER: tl.constexpr,
    SLOPES: tl.constexpr,
    WEIGHTS: tl.constexpr,
):
    """Derivatives of <values, gradients (N)> and, if SLOPES, <their derivatives by the inputs,
    directions (x_directions (N, 3), directions (FEATURES, N))>: by the inputs, by_xs and
    by_features; and, if WEIGHTS, by `first`, `bias` and `second`, sums (programs, WIDTH, 3 +
    FEATURES + 2) of the points that a program has. And, unless `slopes` (FEATURES, N) are None,
    those of the values by the features.

    With h = first z + bias and a = first direction, the derivative by h is
    gradient second s'(h) + second s''(h) a, and that by a is second s'(h).
    """
    weights, outgoing = _units(first, bias, second, FEATURES, WIDTH, INPUTS, UNITS)
    by_weights = tl.zeros((INPUTS, UNITS), tl.float32)
    by_second = tl.zeros((POINTS, UNITS), tl.float32)
    real = number_of(real, count)
    for block in range(tl.program_id(0), tl.cdiv(real, POINTS), tl.num_programs(0)):
        points = tl.cast(block, tl.int64) * POINTS + tl.arange(0, POINTS)
        z = _inputs(xs, features, points, real, count, FEATURES, INPUTS)
        z = _with_one(z, FEATURES, INPUTS)
        gradient = tl.load(gradients + points, mask=points < real, other=0.0)[:, None]
        soft, slope, curvature = _softplus(tl.dot(z, weights, input_precision=PRECISION))
        by_a = slope * outgoing
        if slopes is not None:
            by_z = tl.dot(by_a, tl.trans(weights), input_precision=LOWER)
            _put_features(slopes, by_z, points, real, count, FEATURES, INPUTS)
        by_h = gradient * slope
        to_second = gradient * soft
        if SLOPES:
            direction = _inputs(x_directions, directions, points, real, count, FEATURES, INPUTS)
            a = tl.dot(direction, weights, input_precision=LOWER)
            by_h += curvature * a
            to_second += slope * a
            if WEIGHTS:
                by_weights = tl.dot(tl.trans(direction), by_a, by_weights, input_precision=LOWER)
        by_h *= outgoing
        by_z = tl.dot(by_h, tl.trans(weights), input_precision=LOWER)
        _put(by_xs, by_features, by_z, points, real, count, FEATURES, INPUTS)
        if WEIGHTS:
            by_weights = tl.dot(tl.trans(z), by_h, by_weights, input_precision=LOWER)
            by_second += to_second
    for block in range(_first_spare(real, POINTS), tl.cdiv(count, POINTS), tl.num_programs(0)):
        points = tl.cast(block, tl.int64) * POINTS + tl.arange(0, POINTS)
        nothing = tl.zeros((POINTS, INPUTS), tl.float32)
        spare = tl.where(points < real, count, points)
        _put(by_xs, by_features, nothing, spare, count, count, FEATURES, INPUTS)
        if slopes is not None:
            _put_features(slopes, nothing, spare, count, count, FEATURES, INPUTS)
    if WEIGHTS:
        row, unit = tl.arange(0, INPUTS)[:, None], tl.arange(0, UNITS)
        sums += (tl.program_id(0) * WIDTH + unit) * (5 + FEATURES)
        wanted = unit < WIDTH
        tl.store(sums[None, :] + row, by_weights, mask=wanted[None, :] & (row < 4 + FEATURES))
        tl.store(sums + 4 + FEATURES, tl.sum(by_second, axis=0), mask=wanted)
