"""The cases of marching cubes, derived from one rule (Lorensen and Cline, SIGGRAPH 1987).

Corner c of a cell lies at its lowest node plus the bits of c: 4 along x, 2 along y, 1 along z. Case
`sum 2^c` has the negative corners c. On every side of the cell that the surface crosses, segments
between the crossed edges cut off each run of negative corners: two cells agree about the side that
they share, whatever the values. The segments join to loops; each loop is cut into triangles by
diagonals that lie in no side (there always are such), so that no edge has more than two triangles.
"""

from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
from jaxtyping import Int

Edge = tuple[int, int]
Loop = tuple[int, ...]
Triangle = tuple[int, int, int]

CORNERS = list(product(range(2), repeat=3))
"""Offsets of the corners from the lowest node of a cell; x slowest, z fastest."""
EDGES: list[Edge] = [(c, c | bit) for bit in (4, 2, 1) for c in range(8) if not c & bit]
"""Lower and upper corner: four edges along x, four along y, four along z."""
EDGE_AXIS = [axis for axis in range(3) for _ in range(4)]
"""Axis along which each edge runs."""

_EDGE_NUMBER = {
    corners: number for number, (a, b) in enumerate(EDGES) for corners in ((a, b), (b, a))
}


def case_table() -> tuple[Int[np.ndarray, "256"], Int[np.ndarray, "256 most 3"]]:
    """Number of triangles of each case, and the edges that their corners lie on (padded by zeros).

    Triangles are counter-clockwise seen from the positive side.
    """
    cases = [[t for loop in _loops(case) for t in _triangulate(loop)] for case in range(256)]
    counts = np.array([len(triangles) for triangles in cases])
    table = np.zeros((256, counts.max(), 3), np.int64)
    for row, triangles in zip(table, cases, strict=True):
        row[: len(triangles)] = np.reshape(triangles, (-1, 3))
    return counts, table


def _sides() -> Iterator[list[int]]:
    """The corners of each side of a cell, counter-clockwise seen from outside."""
    for axis, high in product(range(3), range(2)):
        first, second = 4 >> (axis + 1) % 3, 4 >> (axis + 2) % 3
        perimeter = [0, first, first | second, second]
        yield [corner | (4 >> axis) * high for corner in (perimeter if high else perimeter[::-1])]


_SIDES = list(_sides())


def _loops(case: int) -> list[Loop]:
    """The closed polygons of a case, as numbers of the edges that they cross."""
    follows = {}
    for side in _SIDES:
        ring = [(a, b, _EDGE_NUMBER[a, b]) for a, b in pairwise([*side, side[0]])]
        negative = [bool(case >> corner & 1) for corner in side]
        # from where a run of negative corners begins to where it ends
        for start in range(4):
            if negative[start] and not negative[start - 1]:
                end = next(i for i in range(start, start + 4) if not negative[(i + 1) % 4])
                follows[ring[start - 1][2]] = ring[end % 4][2]
    loops = []
    while follows:
        edge = min(follows)
        loop = []
        while edge in follows:
            loop.append(edge)
            edge = follows.pop(edge)
        loops.append(tuple(loop))
    return loops


def _triangulate(loop: Loop) -> list[Triangle]:
    """The triangulation of a loop with no diagonal in a side, and then the shortest diagonals."""
    return min(_triangulations(loop), key=lambda triangles: _cost(loop, triangles))


def _triangulations(loop: Loop) -> Iterator[list[Triangle]]:
    """All ways to cut a polygon into triangles: by the triangle at its last side."""
    if len(loop) < 3:
        yield []
        return
    for apex in range(1, len(loop) - 1):
        for before in _triangulations(loop[: apex + 1]):
            for behind in _triangulations(loop[apex:]):
                yield [(loop[0], loop[apex], loop[-1]), *before, *behind]


def _cost(loop: Loop, triangles: list[Triangle]) -> tuple[int, int, list[Triangle]]:
    """Diagonals in sides, the sum of squared lengths, and what settles ties."""
    perimeter = {*pairwise([*loop, loop[0]])}
    edges = {pair for a, b, c in triangles for pair in ((a, b), (b, c), (c, a))}
    # each diagonal is there both ways
    diagonals = edges - perimeter
    in_sides = sum(_IS_IN_SIDE[pair] for pair in diagonals)
    return in_sides, sum(_SQUARED_LENGTH[pair] for pair in diagonals), triangles


def _squared_length(a: Edge, b: Edge) -> int:
    """The squared distance between the middles of two edges, in half cells."""
    sums = ([x + y for x, y in zip(CORNERS[i], CORNERS[j], strict=True)] for i, j in (a, b))
    return sum((x - y) ** 2 for x, y in zip(*sums, strict=True))


_PAIRS = list(product(range(12), repeat=2))
_IS_IN_SIDE = {
    (a, b): any({*EDGES[a], *EDGES[b]} <= set(side) for side in _SIDES) for a, b in _PAIRS
}
_SQUARED_LENGTH = {(a, b): _squared_length(EDGES[a], EDGES[b]) for a, b in _PAIRS}
