"""Exact intersections of rays with analytic shapes.

Sphere tracing (Hart, The Visual Computer 1996): a shape's value over its Lipschitz bound is a
distance that a ray can surely advance. Three things make it quick without skipping anything:
free space known on a grid is crossed by table look-up; steps are stretched, and taken back unless
the free spheres at both ends overlap (Keinert et al., STAG 2014); and close to the surface the
crossing is bracketed by a change of sign and solved to machine precision.
"""

import numpy as np
from jaxtyping import Float

from pmni.synthetic.shapes import Shape, normalised
from pmni.synthetic.tessellation import FreeSpaceGrid, TessellatedShape

_PROBE_DISTANCE = 0.02
"""Distance to the surface below which a change of sign is searched, in grid spacings (a spacing is
about half a millimetre for an object of 160 mm)."""
_PROBE_STEP = 0.1
"""Length of the step that searches for a change of sign, in grid spacings."""
_MIN_STEP = 0.03
"""Shortest step of a grazing ray, in grid spacings: shorter passages through the surface may be
missed."""
_GRAZING = 0.05
"""Decrease of the distance per length of ray below which a ray counts as grazing."""
_CONTACT = 1e-9
"""Distance to the surface below which a point counts as a hit, in grid spacings."""
_MAX_STEPS = 100_000
"""Number of steps after which the Lipschitz bound must be wrong."""
_TOLERANCE = 1e-11
"""Largest absolute value of the shape at a hit, in units of the shape."""


class AnalyticSurface:
    """A tessellated implicit shape that rays can hit."""

    def __init__(self, solid: TessellatedShape) -> None:
        self.solid = solid
        self.mesh = solid.mesh

    def trace(
        self, origins: Float[np.ndarray, "N 3"], directions: Float[np.ndarray, "N 3"]
    ) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
        """Distances to the first hits, NaN for a miss, and exact unit normals, zero for a miss."""
        distances = first_crossings(self.solid, origins, directions)
        normals = np.zeros_like(directions)
        hit = np.isfinite(distances)
        points = origins[hit] + distances[hit, None] * directions[hit]
        normals[hit] = normalised(self.solid.shape.gradient(points))
        return distances, normals


def first_crossings(
    solid: TessellatedShape, origins: Float[np.ndarray, "N 3"], directions: Float[np.ndarray, "N 3"]
) -> Float[np.ndarray, " N"]:
    """Distance to the first crossing along each ray (unit directions), NaN for a miss.

    Origins lie outside the solid.
    """
    distances = np.full(len(origins), np.nan)
    ends, values = _brackets(solid, origins, directions)
    hit = np.isfinite(ends[:, 0])
    distances[hit] = _solve(solid.shape, origins[hit], directions[hit], ends[hit], values[hit])
    return distances


def _brackets(
    solid: TessellatedShape, origins: np.ndarray, directions: np.ndarray
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 2"]]:
    """Distances just before and after each ray's first crossing, and the shape's values there.

    NaN for a miss.
    """
    shape, grid = solid.shape, solid.free_space
    close, probe, least = (
        factor * grid.spacing for factor in (_PROBE_DISTANCE, _PROBE_STEP, _MIN_STEP)
    )
    ends, values = np.full((2, len(origins), 2), np.nan)

    enter, leave = _box_interval(grid, origins, directions)
    rays = np.flatnonzero(enter < leave)
    start = enter[rays]  # there is no crossing before this
    free = np.full(len(rays), np.nan)  # the free distance at `start`, NaN where not known yet
    slope = np.ones(len(rays))  # how fast the free distance falls along the ray
    careful = np.zeros(len(rays), bool)  # the last step was taken back
    for _ in range(_MAX_STEPS):
        if len(rays) == 0:
            return ends, values
        jump = _free_distance(grid, origins[rays] + start[:, None] * directions[rays])
        far = jump > grid.spacing
        start[far] += jump[far]
        free[far] = np.nan

        near = np.flatnonzero(~far)
        before, here = start[near], free[near]
        safe = np.where(slope[near] < _GRAZING, np.maximum(here, least), here)
        # the longest step whose free spheres overlap if the value goes on falling as it did
        step = np.where(here < close, probe, 0.98 * 2 * here / (1 + slope[near]))
        step = np.where(careful[near], safe, np.maximum(step, safe))
        step = np.where(np.isnan(here), 0, step)
        after = before + step
        ray = rays[near]
        there = shape(origins[ray] + after[:, None] * directions[ray]) / shape.lipschitz

        found = (there < 0) & (step <= safe + probe)
        ends[ray[found]] = np.stack([before, after], 1)[found]
        values[ray[found]] = shape.lipschitz * np.stack([here, there], 1)[found]
        verified = ~found & ((step <= safe) | (here + there >= step) | (step == 0))
        touching = verified & (np.abs(there) < _CONTACT * grid.spacing)
        ends[ray[touching]] = after[touching, None]
        values[ray[touching]] = 0

        with np.errstate(invalid="ignore", divide="ignore"):
            falling = np.clip((here - there) / step, -0.5, 1)
        slope[near] = np.where(verified, np.where(np.isnan(falling), 1, falling), slope[near])
        start[near] = np.where(verified, after, before)
        free[near] = np.where(verified, there, here)
        careful[near] = ~verified

        ended = start >= leave[rays]
        ended[near[found | touching]] = True
        on = ~ended
        rays, start, free, slope, careful = rays[on], start[on], free[on], slope[on], careful[on]
    raise RuntimeError(f"{len(rays)} rays did not end; is the shape's Lipschitz bound right?")


def _box_interval(
    grid: FreeSpaceGrid, origins: np.ndarray, directions: np.ndarray
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Where each ray enters and leaves the grid's box (enter >= leave: it does not)."""
    upper = grid.corner + np.array(grid.free.shape) * grid.spacing
    with np.errstate(divide="ignore"):
        inverse = 1 / np.where(directions == 0, 1e-300, directions)
    to_low, to_high = (grid.corner - origins) * inverse, (upper - origins) * inverse
    enter = np.minimum(to_low, to_high).max(1)
    return np.maximum(enter, 0), np.maximum(to_low, to_high).min(1)


def _free_distance(
    grid: FreeSpaceGrid, points: Float[np.ndarray, "N 3"]
) -> Float[np.ndarray, " N"]:
    """The free distance of the cell that each point is in (points in the box)."""
    cells = ((points - grid.corner) / grid.spacing).astype(np.int64)
    i, j, k = np.clip(cells, 0, np.array(grid.free.shape) - 1).T
    return grid.free[i, j, k].astype(np.float64)


def _solve(
    shape: Shape,
    origins: Float[np.ndarray, "N 3"],
    directions: Float[np.ndarray, "N 3"],
    ends: Float[np.ndarray, "N 2"],
    values: Float[np.ndarray, "N 2"],
) -> Float[np.ndarray, " N"]:
    """The zero between two ends whose values have different signs (regula falsi, Illinois)."""
    a, b = ends.T.copy()
    value_a, value_b = values.T.copy()
    roots = a.copy()
    active = np.flatnonzero(value_a > 0)
    kept = np.zeros(len(a), np.int8)  # which end stayed in the last step
    for _ in range(100):
        if len(active) == 0:
            return roots
        left, right = value_a[active], value_b[active]
        middle = (a[active] * right - b[active] * left) / (right - left)
        roots[active] = middle
        value = shape(origins[active] + middle[:, None] * directions[active])
        outside = value > 0
        was = kept[active]
        value_b[active] = np.where(outside, np.where(was == 1, right / 2, right), value)
        value_a[active] = np.where(outside, value, np.where(was == -1, left / 2, left))
        a[active] = np.where(outside, middle, a[active])
        b[active] = np.where(outside, b[active], middle)
        kept[active] = np.where(outside, 1, -1)
        active = active[np.abs(value) > _TOLERANCE * shape.unit]
    raise RuntimeError(f"{len(active)} crossings were not solved")
