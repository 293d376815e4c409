"""Circular ordering of views on a uniform turntable: a quadratic assignment."""

from functools import lru_cache

import numpy as np
from jaxtyping import Complex, Float, Int
from scipy.optimize import linear_sum_assignment

from pmni.config.registration import TurntableSettings
from pmni.registration.multiview.turntable import assign_positions

ALL_STARTS_LIMIT = 24
"""Largest number of views for which all random starts are made; beyond, each takes longer."""
SYNCHRONISATION_PARTNERS = 6
"""Partners of each view in angular synchronisation."""
FRANK_WOLFE_ITERATIONS = 30
"""Iterations of the relaxed assignment."""
MAX_DIFFERENCES = 4_000_000
"""Most differences of positions that are evaluated to find the best rearrangement; bounds
memory."""


def circular_orderings(
    gains: Float[np.ndarray, "V V V"], settings: TurntableSettings, seed: int
) -> list[Int[np.ndarray, " V"]]:
    """Permutations s of V positions on a circle that are local maxima of the sum of gains.

    gains[i, j, d] is the gain of s_j - s_i = d modulo V, with gains[j, i, -d] = gains[i, j, d]; the
    sum is over pairs i < j. Frank-Wolfe on doubly stochastic matrices (the fast approximate QAP of
    Vogelstein et al., PLOS ONE 2015, for gains that depend on differences of positions) from random
    starts and from angular synchronisation; the best are improved by swaps and by moving and
    reversing blocks of neighbours. Rotations of the circle are equivalent: the first view is at
    position 0. Best first.
    """
    rng = np.random.default_rng(seed)
    count = len(gains)
    spectrum = np.fft.rfft(gains, axis=2).conj()
    random = settings.starts if count <= ALL_STARTS_LIMIT else settings.starts // 8
    relaxed = [np.eye(count)[synchronised(gains)]]
    relaxed += [_doubly_stochastic(rng, count) for _ in range(random)]
    orderings = np.stack([_frank_wolfe(spectrum, matrix) for matrix in relaxed])
    orderings = _best_first(gains, orderings)
    polished = [_local_search(gains, ordering, rng) for ordering in orderings[: settings.polished]]
    return list(_best_first(gains, np.concatenate([polished, orderings])))


def neighbour_orderings(
    gains: Float[np.ndarray, "V V V"], positions: Int[np.ndarray, " V"], count: int, seed: int
) -> list[Int[np.ndarray, " V"]]:
    """The orderings with the highest gains that differ by one swap or one moved block.

    If there are too many to evaluate, a random subset of them is.
    """
    return list(_best_first(gains, _rearranged(positions, np.random.default_rng(seed)))[:count])


def _best_first(
    gains: Float[np.ndarray, "V V V"], positions: Int[np.ndarray, "N V"]
) -> Int[np.ndarray, "n V"]:
    """The distinct orderings by descending gain, with the first view at position 0."""
    positions = np.unique((positions - positions[:, :1]) % len(gains), axis=0)
    return positions[np.argsort(-_values(gains, positions), kind="stable")]


def value(gains: Float[np.ndarray, "V V V"], positions: Int[np.ndarray, "*batch V"]) -> float:
    """The sum of the gains of an ordering."""
    return float(_values(gains, positions[None])[0])


def _values(
    gains: Float[np.ndarray, "V V V"], positions: Int[np.ndarray, "N V"]
) -> Float[np.ndarray, " N"]:
    """The sum of the gains of each ordering."""
    first, second = np.triu_indices(len(gains), 1)
    return gains[first, second, (positions[:, second] - positions[:, first]) % len(gains)].sum(1)


def synchronised(gains: Float[np.ndarray, "V V V"]) -> Int[np.ndarray, " V"]:
    """Positions by angular synchronisation (Singer, ACHA 2011).

    They are the phases of the leading eigenvector of the Hermitian matrix of exp(2 pi i d / V),
    where d is the best difference of a pair, weighted by gains, for the best partners of each view.
    """
    count = len(gains)
    best, gain = gains.argmax(2), gains.max(2).clip(0)
    np.fill_diagonal(gain, 0)
    least = np.sort(gain, axis=1)[:, -min(SYNCHRONISATION_PARTNERS, count)]
    gain *= (gain >= least[:, None]) | (gain >= least[None])
    # H_ij = exp(i (angle_j - angle_i)) has the conjugate phases as its eigenvector
    vectors = np.linalg.eigh(gain * np.exp(2j * np.pi * best / count))[1]
    return assign_positions(-np.angle(vectors[:, -1]))[0]


def _doubly_stochastic(rng: np.random.Generator, count: int) -> Float[np.ndarray, "V V"]:
    """A random doubly stochastic matrix near the barycentre (Sinkhorn's iterations)."""
    matrix = rng.random((count, count)) ** 2 + 0.1
    for _ in range(10):
        matrix /= matrix.sum(1, keepdims=True)
        matrix /= matrix.sum(0, keepdims=True)
    return matrix


def _gradient(
    spectrum: Complex[np.ndarray, "V V F"], matrix: Float[np.ndarray, "V V"]
) -> Float[np.ndarray, "V V"]:
    """sum_jb P_jb gains[i, j, b - a] for view i at position a: correlations along the circle."""
    transformed = np.fft.rfft(matrix, axis=1)
    return np.fft.irfft(np.einsum("ijf,jf->if", spectrum, transformed), len(matrix), axis=1)


def _frank_wolfe(
    spectrum: Complex[np.ndarray, "V V F"], matrix: Float[np.ndarray, "V V"]
) -> Int[np.ndarray, " V"]:
    """The ordering to which Frank-Wolfe converges from a doubly stochastic matrix."""
    for _ in range(FRANK_WOLFE_ITERATIONS):
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
    gains: Float[np.ndarray, "V V V"], positions: Int[np.ndarray, " V"], rng: np.random.Generator
) -> Int[np.ndarray, " V"]:
    """The ordering after best rearrangements, until none increases the gain."""
    current = value(gains, positions)
    while True:
        candidates = _rearranged(positions, rng)
        values = _values(gains, candidates)
        best = int(values.argmax())
        if values[best] < current + 1e-9:
            return positions
        positions, current = candidates[best], float(values[best])


def _rearranged(
    positions: Int[np.ndarray, " V"], rng: np.random.Generator
) -> Int[np.ndarray, "N V"]:
    """Positions after each rearrangement of the circle, or after a random subset if they are
    many."""
    count = len(positions)
    orders = _rearrangements(count)
    most = MAX_DIFFERENCES // (count * (count - 1) // 2)
    if len(orders) > most:
        orders = orders[rng.choice(len(orders), most, replace=False)]
    sequence = np.argsort(positions)[orders]  # the view at each position
    inverse = np.empty_like(sequence)
    np.put_along_axis(inverse, sequence, np.arange(count)[None], 1)
    return inverse


@lru_cache(maxsize=2)
def _rearrangements(count: int) -> Int[np.ndarray, "N V"]:
    """Orders of a circle with two positions swapped, or a block moved elsewhere, in either
    order."""
    positions = np.arange(count)
    orders = []
    for first in range(count):
        for second in range(first + 1, count):
            swapped = positions.copy()
            swapped[[first, second]] = second, first
            orders.append(swapped)
        turned = np.roll(positions, -first)
        for length in range(1, min(count // 2, 10) + 1):
            block, rest = turned[:length], turned[length:]
            for gap in range(len(rest)):
                for inserted in (block, block[::-1]):
                    orders.append(np.concatenate([rest[:gap], inserted, rest[gap:]]))
    return np.unique(np.array(orders), axis=0)
