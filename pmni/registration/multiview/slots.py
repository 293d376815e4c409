"""Which view has which place on a turntable of equal steps: a quadratic assignment."""

from functools import lru_cache

import numpy as np
from jaxtyping import Complex, Float, Int
from scipy.optimize import linear_sum_assignment

from pmni.registration.multiview.turntable import equal_steps

STARTS = 80
"""Random starts of the relaxed assignment; fewer beyond MANY views, where each takes longer."""

MANY = 24

POLISHED = 4
"""Of its results, the best that a local search improves."""

_PARTNERS = 6  # of each view, for angular synchronisation
_ITERATIONS = 30  # of the relaxed assignment
_DIFFERENCES = 4_000_000  # of places: so many are looked at to find the best rearrangement


def assignments(gains: Float[np.ndarray, "V V V"], seed: int) -> list[Int[np.ndarray, " V"]]:
    """Permutations s of V places on a circle that are local optima of the sum of gains, best first.

    gains[i, j, d] is what it is worth that s_j - s_i = d modulo V, with gains[j, i, -d] =
    gains[i, j, d]; the sum is over pairs i < j. Frank-Wolfe on doubly stochastic matrices (the
    fast approximate QAP of Vogelstein et al. 2015, for gains that depend on differences of
    places) from random starts and from angular synchronisation, the best then improved by swaps
    and by moving and turning blocks of neighbours. Any turn of the circle is as good: the first
    view is at place 0.
    """
    rng = np.random.default_rng(seed)
    count = len(gains)
    spectrum = np.fft.rfft(gains, axis=2).conj()
    random = STARTS if count <= MANY else STARTS // 8
    relaxed = [np.eye(count)[synchronised(gains)]]
    relaxed += [_doubly_stochastic(rng, count) for _ in range(random)]
    found = _best_first(gains, np.stack([_frank_wolfe(spectrum, matrix) for matrix in relaxed]))
    polished = [_local_search(gains, slots, rng) for slots in found[:POLISHED]]
    return list(_best_first(gains, np.concatenate([polished, found])))


def neighbours(
    gains: Float[np.ndarray, "V V V"], slots: Int[np.ndarray, " V"], count: int, seed: int
) -> list[Int[np.ndarray, " V"]]:
    """Of the assignments that differ by one swap or one moved block, those of the highest gains.

    Where there are too many, of some of them.
    """
    return list(_best_first(gains, _rearranged(slots, np.random.default_rng(seed)))[:count])


def _best_first(
    gains: Float[np.ndarray, "V V V"], slots: Int[np.ndarray, "N V"]
) -> Int[np.ndarray, "n V"]:
    """The different ones, the first view at place 0."""
    slots = np.unique((slots - slots[:, :1]) % len(gains), axis=0)
    return slots[np.argsort(-_values(gains, slots), kind="stable")]


def value(gains: Float[np.ndarray, "V V V"], slots: Int[np.ndarray, "*batch V"]) -> float:
    """The sum of the gains of an assignment."""
    return float(_values(gains, slots[None])[0])


def _values(
    gains: Float[np.ndarray, "V V V"], slots: Int[np.ndarray, "N V"]
) -> Float[np.ndarray, " N"]:
    first, second = np.triu_indices(len(gains), 1)
    return gains[first, second, (slots[:, second] - slots[:, first]) % len(gains)].sum(1)


def synchronised(gains: Float[np.ndarray, "V V V"]) -> Int[np.ndarray, " V"]:
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
) -> Int[np.ndarray, " V"]:
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
    gains: Float[np.ndarray, "V V V"], slots: Int[np.ndarray, " V"], rng: np.random.Generator
) -> Int[np.ndarray, " V"]:
    """The best rearrangement again and again, until none helps."""
    current = value(gains, slots)
    while True:
        candidates = _rearranged(slots, rng)
        values = _values(gains, candidates)
        best = int(values.argmax())
        if values[best] < current + 1e-9:
            return slots
        slots, current = candidates[best], float(values[best])


def _rearranged(slots: Int[np.ndarray, " V"], rng: np.random.Generator) -> Int[np.ndarray, "N V"]:
    """The places after each of the rearrangements of the circle, or of some if they are many."""
    count = len(slots)
    orders = _rearrangements(count)
    most = _DIFFERENCES // (count * (count - 1) // 2)
    if len(orders) > most:
        orders = orders[rng.choice(len(orders), most, replace=False)]
    sequence = np.argsort(slots)[orders]  # the view at each place
    places = np.empty_like(sequence)
    np.put_along_axis(places, sequence, np.arange(count)[None], 1)
    return places


@lru_cache(maxsize=2)
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
