"""The kernels of a network with one hidden layer: f = second . softplus(first z + bias) + end.

Arguments of all: z as points xs (N, 3) and their `features` (FEATURES, N), `first` (WIDTH, 3 +
FEATURES), `bias` and `second` (WIDTH), `end` (1), and `num_valid`, the number of points that are
not padding (None: all); for padding everything is zero. A program has the weights of all hidden
units and loops over some of the points, POINTS at a time. One of the INPUTS is 1; its weight is the
bias. INPUTS and UNITS are powers of two and at least 16.
"""

import triton
import triton.language as tl

from pmni.kernels.padding import valid_count

BETA = tl.constexpr(100.0)
"""Sharpness of the softplus."""
LOG2_E = tl.constexpr(1.4426950408889634)
"""log2(e)."""


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
    in_range = unit < WIDTH
    offsets = unit * (3 + FEATURES) + row
    weights = tl.load(first + offsets, mask=in_range & (row < 3 + FEATURES), other=0.0)
    weights += tl.load(bias + unit + row * 0, mask=in_range & (row == 3 + FEATURES), other=0.0)
    return weights, tl.load(second + unit, mask=in_range, other=0.0)


@triton.jit
def _offsets(points, num_valid, count, FEATURES: tl.constexpr, INPUTS: tl.constexpr):
    """Where inputs (POINTS, INPUTS) of points below `num_valid` are: in xs, and in features."""
    column = tl.arange(0, INPUTS)[None, :]
    in_range = (points < num_valid)[:, None]
    in_xs = points[:, None] * 3 + column
    in_features = (column - 3).to(tl.int64) * count + points[:, None]
    is_feature = (column >= 3) & (column < 3 + FEATURES)
    return in_xs, in_range & (column < 3), in_features, in_range & is_feature


@triton.jit
def _inputs(xs, features, points, num_valid, count, FEATURES: tl.constexpr, INPUTS: tl.constexpr):
    """Inputs of points (POINTS, INPUTS), without the constant input."""
    in_xs, are_xs, in_features, are_features = _offsets(points, num_valid, count, FEATURES, INPUTS)
    x = tl.load(xs + in_xs, mask=are_xs, other=0.0)
    return x + tl.load(features + in_features, mask=are_features, other=0.0)


@triton.jit
def _with_one(z, FEATURES: tl.constexpr, INPUTS: tl.constexpr):
    return tl.where(tl.arange(0, INPUTS)[None, :] == 3 + FEATURES, 1.0, z)


@triton.jit
def _store_inputs(
    xs, features, z, points, num_valid, count, FEATURES: tl.constexpr, INPUTS: tl.constexpr
):
    """Store values for the inputs, (POINTS, INPUTS), of points below `num_valid`."""
    in_xs, are_xs, _, _ = _offsets(points, num_valid, count, FEATURES, INPUTS)
    tl.store(xs + in_xs, z, mask=are_xs)
    _store_features(features, z, points, num_valid, count, FEATURES, INPUTS)


@triton.jit
def _store_features(
    features, z, points, num_valid, count, FEATURES: tl.constexpr, INPUTS: tl.constexpr
):
    """Store the part of the features only."""
    _, _, in_features, are_features = _offsets(points, num_valid, count, FEATURES, INPUTS)
    tl.store(features + in_features, z, mask=are_features)


@triton.jit
def _first_padding_block(num_valid, POINTS: tl.constexpr):
    """A program's first block with points that are padding."""
    return num_valid // POINTS + tl.program_id(0)


@triton.jit
def head_values(
    xs,
    features,
    first,
    bias,
    second,
    end,
    values,
    grad_xs,
    grad_features,
    num_valid,
    count,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    INPUTS: tl.constexpr,
    UNITS: tl.constexpr,
    POINTS: tl.constexpr,
    PRECISION: tl.constexpr,
    SLOPES: tl.constexpr,
):
    """values (N): f; grad_xs, grad_features, if SLOPES: its derivatives by the inputs."""
    weights, outgoing = _units(first, bias, second, FEATURES, WIDTH, INPUTS, UNITS)
    constant = tl.load(end)
    num_valid = valid_count(num_valid, count)
    for block in range(tl.program_id(0), tl.cdiv(num_valid, POINTS), tl.num_programs(0)):
        points = tl.cast(block, tl.int64) * POINTS + tl.arange(0, POINTS)
        z = _inputs(xs, features, points, num_valid, count, FEATURES, INPUTS)
        h = tl.dot(_with_one(z, FEATURES, INPUTS), weights, input_precision=PRECISION)
        soft, slope, _ = _softplus(h)
        tl.store(
            values + points, tl.sum(soft * outgoing, axis=1) + constant, mask=points < num_valid
        )
        if SLOPES:
            grad_z = tl.dot(slope * outgoing, tl.trans(weights), input_precision=PRECISION)
            _store_inputs(
                grad_xs, grad_features, grad_z, points, num_valid, count, FEATURES, INPUTS
            )
    for block in range(
        _first_padding_block(num_valid, POINTS), tl.cdiv(count, POINTS), tl.num_programs(0)
    ):
        points = tl.cast(block, tl.int64) * POINTS + tl.arange(0, POINTS)
        padding_points = tl.where(points < num_valid, count, points)
        tl.store(
            values + padding_points, tl.zeros((POINTS,), tl.float32), mask=padding_points < count
        )
        if SLOPES:
            zeros = tl.zeros((POINTS, INPUTS), tl.float32)
            _store_inputs(
                grad_xs, grad_features, zeros, padding_points, count, count, FEATURES, INPUTS
            )


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
    grad_xs,
    grad_features,
    slopes,
    sums,
    num_valid,
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
    directions (x_directions (N, 3), directions (FEATURES, N))>: by the inputs, grad_xs and
    grad_features; and, if WEIGHTS, by `first`, `bias` and `second`, sums (programs, WIDTH, 3 +
    FEATURES + 2) of the points that a program has. And, unless `slopes` (FEATURES, N) are None,
    those of the values by the features.

    With h = first z + bias and a = first direction, the derivative by h is
    gradient second s'(h) + second s''(h) a, and that by a is second s'(h).
    """
    weights, outgoing = _units(first, bias, second, FEATURES, WIDTH, INPUTS, UNITS)
    grad_weights = tl.zeros((INPUTS, UNITS), tl.float32)
    grad_second = tl.zeros((POINTS, UNITS), tl.float32)
    num_valid = valid_count(num_valid, count)
    for block in range(tl.program_id(0), tl.cdiv(num_valid, POINTS), tl.num_programs(0)):
        points = tl.cast(block, tl.int64) * POINTS + tl.arange(0, POINTS)
        z = _inputs(xs, features, points, num_valid, count, FEATURES, INPUTS)
        z = _with_one(z, FEATURES, INPUTS)
        gradient = tl.load(gradients + points, mask=points < num_valid, other=0.0)[:, None]
        soft, slope, curvature = _softplus(tl.dot(z, weights, input_precision=PRECISION))
        grad_a = slope * outgoing
        if slopes is not None:
            grad_z = tl.dot(grad_a, tl.trans(weights), input_precision=LOWER)
            _store_features(slopes, grad_z, points, num_valid, count, FEATURES, INPUTS)
        grad_h = gradient * slope
        to_second = gradient * soft
        if SLOPES:
            direction = _inputs(
                x_directions, directions, points, num_valid, count, FEATURES, INPUTS
            )
            a = tl.dot(direction, weights, input_precision=LOWER)
            grad_h += curvature * a
            to_second += slope * a
            if WEIGHTS:
                grad_weights = tl.dot(
                    tl.trans(direction), grad_a, grad_weights, input_precision=LOWER
                )
        grad_h *= outgoing
        grad_z = tl.dot(grad_h, tl.trans(weights), input_precision=LOWER)
        _store_inputs(grad_xs, grad_features, grad_z, points, num_valid, count, FEATURES, INPUTS)
        if WEIGHTS:
            grad_weights = tl.dot(tl.trans(z), grad_h, grad_weights, input_precision=LOWER)
            grad_second += to_second
    for block in range(
        _first_padding_block(num_valid, POINTS), tl.cdiv(count, POINTS), tl.num_programs(0)
    ):
        points = tl.cast(block, tl.int64) * POINTS + tl.arange(0, POINTS)
        zeros = tl.zeros((POINTS, INPUTS), tl.float32)
        padding_points = tl.where(points < num_valid, count, points)
        _store_inputs(grad_xs, grad_features, zeros, padding_points, count, count, FEATURES, INPUTS)
        if slopes is not None:
            _store_features(slopes, zeros, padding_points, count, count, FEATURES, INPUTS)
    if WEIGHTS:
        row, unit = tl.arange(0, INPUTS)[:, None], tl.arange(0, UNITS)
        sums += (tl.program_id(0) * WIDTH + unit) * (5 + FEATURES)
        unit_mask = unit < WIDTH
        tl.store(sums[None, :] + row, grad_weights, mask=unit_mask[None, :] & (row < 4 + FEATURES))
        tl.store(sums + 4 + FEATURES, tl.sum(grad_second, axis=0), mask=unit_mask)
