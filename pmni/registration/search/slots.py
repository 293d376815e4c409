"""Which view has which place on a turntable of equal steps: a quadratic assignment."""

import numpy as np
from jaxtyping import Complex, Float, Int
from scipy.optimize import linear_sum_assignment

from pmni.registration.search.turntable import equal_steps

STARTS = 40
"""Random starts of the relaxed assignment; fewer beyond MANY views, where each takes longer."""

MANY = 24

POLISHED = 4
"""Of its results, the best that a local search improves."""

_PARTNERS = 6  # of each view, for angular synchronisation
_ITERATIONS = 30  # of the relaxed assignment
_NEIGHBOURS = 4000  # rearrangements that a step of the local search looks at


def assign_slots(
    gains: Float[np.ndarray, "V V V"], seed: int, start: Int[np.ndarray, "V"] | None = None
) -> tuple[Int[np.ndarray, "V"], float]:
    """The permutation s of V places on a circle with the largest sum of gains, and that sum.

    gains[i, j, d] is what it is worth that s_j - s_i = d modulo V, with gains[j, i, -d] =
    gains[i, j, d]; the sum is over pairs i < j. Frank-Wolfe on doubly stochastic matrices (the
    fast approximate QAP of Vogelstein et al. 2015, for gains that depend on differences of
    places) from random starts, from angular synchronisation and from `start`, then a local search
    by swaps and by moving and turning blocks of neighbours. Any turn of the circle is as good.
    """
    rng = np.random.default_rng(seed)
    count = len(gains)
    spectrum = np.fft.rfft(gains, axis=2).conj()
    starts = [synchronised(gains)] if start is None else [synchronised(gains), start]
    found = {tuple(slots.tolist()): value(gains, slots) for slots in starts}
    relaxed = [np.eye(count)[slots] for slots in starts]
    random = STARTS if count <= MANY else STARTS // 8
    relaxed += [_doubly_stochastic(rng, count) for _ in range(random)]
    for matrix in relaxed:
        slots = _frank_wolfe(spectrum, matrix)
        found[tuple(slots.tolist())] = value(gains, slots)
    best = sorted(found, key=lambda slots: -found[slots])[:POLISHED]
    polished = [_local_search(gains, np.array(slots), rng) for slots in best]
    return max(polished, key=lambda result: result[1])


def value(gains: Float[np.ndarray, "V V V"], slots: Int[np.ndarray, "*batch V"]) -> float:
    """The sum of the gains of an assignment."""
    return float(_values(gains, slots[None])[0])


def _values(
    gains: Float[np.ndarray, "V V V"], slots: Int[np.ndarray, "N V"]
) -> Float[np.ndarray, "N"]:
    first, second = np.triu_indices(len(gains), 1)
    return gains[first, second, (slots[:, second] - slots[:, first]) % len(gains)].sum(1)


def synchronised(gains: Float[np.ndarray, "V V V"]) -> Int[np.ndarray, "V"]:
    """Places by angular synchronisation (Singer 2011): the phases of the first eigenvector.

    Of the Hermitian matrix of exp(2 pi i d / V), d the best difference of a pair, for the few
    best partners of each view, weighted by their gains.
    """
    count = len(gains)
    best, gain = gains.argmax(2), gains.max(2).clip(0)
    np.fill_diagonal(gain, 0)
    least = np.sort(gain, axis=1)[:, -min(_PARTNERS, count)]
    gain *= (gain >= least[:, None]) | (gain >= least[None])
    # H_ij = exp(i (angle_j - angle_i)) has the conjugate phases as its eigenvector
    vectors = np.linalg.eigh(gain * np.exp(2j * np.pi * best / count))[1]
    return equal_steps(-np.angle(vectors[:, -1]))[0]


def _doubly_stochastic(rng: np.random.Generator, count: int) -> Float[np.ndarray, "V V"]:
    """A random start near the middle of all assignments (Sinkhorn's iterations)."""
    matrix = rng.random((count, count)) ** 2 + 0.1
    for _ in range(10):
        matrix /= matrix.sum(1, keepdims=True)
        matrix /= matrix.sum(0, keepdims=True)
    return matrix


def _gradient(
    spectrum: Complex[np.ndarray, "V V F"], matrix: Float[np.ndarray, "V V"]
) -> Float[np.ndarray, "V V"]:
    """sum_jb P_jb gains[i, j, b - a] for view i at place a: correlations along the circle."""
    transformed = np.fft.rfft(matrix, axis=1)
    return np.fft.irfft(np.einsum("ijf,jf->if", spectrum, transformed), len(matrix), axis=1)


def _frank_wolfe(
    spectrum: Complex[np.ndarray, "V V F"], matrix: Float[np.ndarray, "V V"]
) -> Int[np.ndarray, "V"]:
    for _ in range(_ITERATIONS):
        gradient = _gradient(spectrum, matrix)
        rows, columns = linear_sum_assignment(gradient, maximize=True)
        corner = np.zeros_like(matrix)
        corner[rows, columns] = 1
        # f(P + a D) = f(P) + a <gradient(P), D> + a^2 / 2 <gradient(D), D>, up to a factor of 1/2
        direction = corner - matrix
        slope = float((gradient * direction).sum())
        curvature = float((_gradient(spectrum, direction) * direction).sum())
        if slope < 1e-9:
            break
        step = 1.0 if 2 * slope + curvature > 0 and curvature >= -slope else -slope / curvature
        matrix = matrix + step * direction
    return linear_sum_assignment(matrix, maximize=True)[1]


def _local_search(
    gains: Float[np.ndarray, "V V V"], slots: Int[np.ndarray, "V"], rng: np.random.Generator
) -> tuple[Int[np.ndarray, "V"], float]:
    """The best rearrangement again and again, until none helps."""
    count = len(slots)
    current = value(gains, slots)
    orders = _rearrangements(count)
    while True:
        tried = orders
        if len(orders) > _NEIGHBOURS:
            tried = orders[rng.choice(len(orders), _NEIGHBOURS, replace=False)]
        sequence = np.argsort(slots)[tried]  # the view at each place
        candidates = np.empty_like(sequence)
        np.put_along_axis(candidates, sequence, np.arange(count)[None], 1)
        values = _values(gains, candidates)
        best = int(values.argmax())
        if values[best] < current + 1e-9:
            return slots, current
        slots, current = candidates[best], float(values[best])


def _rearrangements(count: int) -> Int[np.ndarray, "N V"]:
    """Orders of a circle: two places swapped, or a block moved elsewhere, either way round."""
    places = np.arange(count)
    orders = []
    for first in range(count):
        for second in range(first + 1, count):
            swapped = places.copy()
            swapped[[first, second]] = second, first
            orders.append(swapped)
        turned = np.roll(places, -first)
        for length in range(1, min(count // 2, 10) + 1):
            block, rest = turned[:length], turned[length:]
            for gap in range(len(rest)):
                for inserted in (block, block[::-1]):
                    orders.append(np.concatenate([rest[:gap], inserted, rest[gap:]]))
    return np.unique(np.array(orders), axis=0)
