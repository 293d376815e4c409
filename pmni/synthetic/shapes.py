"""Solids as signed functions of space: primitives, and the operations that combine them.

A shape's value is positive outside and negative inside. It need not be the distance, but it
changes by no more than `lipschitz` times the distance moved, so value / lipschitz is a distance
that is surely free. Every operation here carries that bound along:

* unions, intersections and differences, sharp or smooth, are convex combinations of gradients:
  the largest bound of their parts;
* a shape and its displacement: the sum of both bounds;
* scaling, rotating and moving: unchanged (values are scaled as lengths are).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Function = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Values (N,) at points with coordinates x, y, z (N,) each."""

Number = float | int
Vector = tuple[Number, Number, Number]

BoundingSphere = tuple[np.ndarray, float]
"""Centre (3,) and radius."""

_CHUNK = 2048
"""Points evaluated at once; the memory of a chunk fits in the processor's cache."""
_STEP = 2e-6
"""Step of central differences, in units of the shape."""


@dataclass(frozen=True)
class Shape:
    """A solid {x: value(x) < 0} whose value has the Lipschitz constant `lipschitz` at most."""

    value: Function
    lipschitz: float = 1.0
    unit: float = 1.0
    """Length of the unit in which the shape was designed; sets the step of `gradient`."""
    bounding_sphere: BoundingSphere | None = None
    """A sphere with value(x) >= |x - centre| - radius everywhere, or None."""

    def __call__(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
        """Values at points."""
        values = np.empty(len(points))
        for start in range(0, len(points), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            values[chunk] = self.value(*np.ascontiguousarray(points[chunk].T))
        return values

    def gradient(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """Gradients by central differences, exact to about 1e-8 where the shape is smooth."""
        step = _STEP * self.unit
        gradients = np.empty((len(points), 3))
        for axis in range(3):
            shift = step * np.eye(3)[axis]
            gradients[:, axis] = (self(points + shift) - self(points - shift)) / (2 * step)
        return gradients


def normalised(vectors: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Vectors of unit length."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# ------------------------------------------------------------------ primitives
def sphere(centre: Vector, radius: float) -> Shape:
    """A sphere."""
    around = np.array(centre, float), radius
    return Shape(lambda x, y, z: _distance_to(around, x, y, z), bounding_sphere=around)


def spheres(
    centres: Float[np.ndarray, "M 3"], radii: Float[np.ndarray, " M"], blend: float
) -> Shape:
    """Smooth union of many spheres: -blend * log sum exp(-distance / blend).

    Spheres strung closely on a curve make a smooth tube of varying thickness.
    """
    squares = (centres**2).sum(1)[:, None]

    def value(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        distance = centres @ np.stack([x, y, z])
        distance *= -2
        distance += squares
        distance += x * x + y * y + z * z
        np.maximum(distance, 0, out=distance)
        np.sqrt(distance, out=distance)
        distance -= radii[:, None]
        return _log_sum_exp_minimum(distance, blend)

    return Shape(
        value, bounding_sphere=_bounding_sphere(centres, radii, blend * np.log(len(centres)))
    )


def capsules(
    starts: Float[np.ndarray, "M 3"],
    ends: Float[np.ndarray, "M 3"],
    start_radii: Float[np.ndarray, " M"],
    end_radii: Float[np.ndarray, " M"],
    blend: float,
) -> Shape:
    """Smooth union of many tapered capsules (rods with round ends), as in `spheres`.

    A capsule is |p - axis point| - radius with the axis point nearest to p, so its bound is
    sqrt(1 + taper^2).
    """
    axes = ends - starts
    lengths, offsets, squares = (
        (a * b).sum(1)[:, None] for a, b in ((axes, axes), (starts, axes), (starts, starts))
    )
    growth = (end_radii - start_radii)[:, None]

    def value(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        points = np.stack([x, y, z])
        along = axes @ points  # (p - start) . axis
        along -= offsets
        at = along / lengths
        np.clip(at, 0, 1, out=at)
        # |p - start - at * axis|^2
        along *= -2
        along += at * lengths
        along *= at
        along += x * x + y * y + z * z
        along += squares
        distance = starts @ points
        distance *= -2
        distance += along
        np.maximum(distance, 0, out=distance)
        np.sqrt(distance, out=distance)
        distance -= start_radii[:, None]
        at *= growth
        distance -= at
        return _log_sum_exp_minimum(distance, blend)

    taper = growth**2 / lengths
    points, radii = np.concatenate([starts, ends]), np.concatenate([start_radii, end_radii])
    within = _bounding_sphere(points, radii, blend * np.log(len(starts)))
    return Shape(value, float(np.sqrt(1 + taper.max())), bounding_sphere=within)


def _bounding_sphere(centres: np.ndarray, radii: np.ndarray, more: float) -> BoundingSphere:
    """A sphere around spheres, with a margin of `more`."""
    middle = (centres.min(0) + centres.max(0)) / 2
    return middle, float((np.linalg.norm(centres - middle, axis=1) + radii).max() + more)


def _distance_to(sphere: BoundingSphere, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    (a, b, c), radius = sphere
    return np.sqrt((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) - radius


def _log_sum_exp_minimum(values: np.ndarray, blend: float) -> np.ndarray:
    """-blend * log sum exp(-values / blend) over the first axis; overwrites `values`."""
    least = values.min(0)
    values -= least
    values *= -1 / blend
    np.exp(values, out=values)
    return least - blend * np.log(values.sum(0))


def capsule(start: Vector, end: Vector, radius: float, end_radius: float | None = None) -> Shape:
    """A capsule: a rod with round ends, tapered if `end_radius` differs."""
    last = radius if end_radius is None else end_radius
    ends = np.array([start, end], float)
    return capsules(ends[:1], ends[1:], np.array([radius]), np.array([last]), 1.0)


def torus(height: float, radius: float, thickness: float) -> Shape:
    """A torus about the z axis: `radius` of its circle, `thickness` the radius of its tube."""

    def value(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        outward = np.sqrt(x * x + y * y) - radius
        return np.sqrt(outward**2 + (z - height) ** 2) - thickness

    return Shape(value)


def cylinder(bottom: float, top: float, radius: float, rounding: float) -> Shape:
    """An upright cylinder about the z axis with rounded edges."""
    middle, half = (top + bottom) / 2, (top - bottom) / 2

    def value(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        outward = np.sqrt(x * x + y * y) - (radius - rounding)
        upward = np.abs(z - middle) - (half - rounding)
        outside = np.sqrt(np.maximum(outward, 0) ** 2 + np.maximum(upward, 0) ** 2)
        return outside + np.minimum(np.maximum(outward, upward), 0) - rounding

    return Shape(value)


def box(half_sides: Vector, rounding: float) -> Shape:
    """A box about the origin with rounded edges."""
    inner = [half - rounding for half in half_sides]

    def value(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        a, b, c = (np.abs(axis) - half for axis, half in zip((x, y, z), inner, strict=True))
        outside = np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2 + np.maximum(c, 0) ** 2)
        return outside + np.minimum(np.maximum(np.maximum(a, b), c), 0) - rounding

    return Shape(value)


def half_space(normal: Vector, offset: float) -> Shape:
    """Everything behind a plane: normal . x < offset, for the direction `normal` of any length."""
    a, b, c = normalised(np.array(normal, float))
    return Shape(lambda x, y, z: a * x + b * y + c * z - offset)


# ------------------------------------------------------------------ operations
def smooth_minimum(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """The minimum with its crease rounded over |a - b| < blend, twice differentiable."""
    overlap = np.maximum(1 - np.abs(a - b) / blend, 0)
    return np.minimum(a, b) - overlap * overlap * overlap * (blend / 6)


def union(first: Shape, *others: Shape, blend: float) -> Shape:
    """Shapes joined one after the other with fillets about as wide as `blend`."""
    return _combined(first, others, blend, 1, 1)


def intersection(first: Shape, *others: Shape, blend: float) -> Shape:
    """What shapes have in common, edges rounded."""
    return _combined(first, others, blend, -1, -1)


def difference(first: Shape, *others: Shape, blend: float) -> Shape:
    """The first without the others, edges rounded."""
    return _combined(first, others, blend, -1, 1)


def _combined(
    first: Shape, others: tuple[Shape, ...], blend: float, sign: int, other_sign: int
) -> Shape:
    """sign * smooth_minimum(sign * a, other_sign * b, blend), for one b after the other."""

    def value(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        result = sign * first.value(x, y, z)
        for other in others:
            near = np.arange(len(x))
            if other.bounding_sphere and other_sign > 0:
                # where b exceeds the result by more than `blend`, it changes nothing
                near = np.flatnonzero(_distance_to(other.bounding_sphere, x, y, z) < result + blend)
            if len(near) > 0:
                b = other_sign * other.value(x[near], y[near], z[near])
                result[near] = smooth_minimum(result[near], b, blend)
        return sign * result

    within = first.bounding_sphere
    if sign > 0:  # a union reaches as far as all its parts, and fillets swell it a little
        known = [shape.bounding_sphere for shape in (first, *others) if shape.bounding_sphere]
        centres, radii = (np.array([ball[i] for ball in known]) for i in range(2))
        complete = len(known) == len(others) + 1
        within = _bounding_sphere(centres, radii, len(others) * blend / 6) if complete else None
    return Shape(value, max(shape.lipschitz for shape in (first, *others)), bounding_sphere=within)


def shell(shape: Shape, thickness: float) -> Shape:
    """A shell of this thickness, half of it on either side of the shape's surface."""
    return Shape(lambda x, y, z: np.abs(shape.value(x, y, z)) - thickness / 2, shape.lipschitz)


def displaced(shape: Shape, height: Function, lipschitz: float) -> Shape:
    """The surface displaced outwards by `height`, whose own Lipschitz constant is `lipschitz`."""
    return Shape(
        lambda x, y, z: shape.value(x, y, z) - height(x, y, z), shape.lipschitz + lipschitz
    )


def transformed(shape: Shape, shift: Vector, rotation: np.ndarray | None = None) -> Shape:
    """The shape rotated by `rotation` (3, 3), then translated by `shift`."""
    turn = np.eye(3) if rotation is None else rotation

    def value(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        local = turn.T @ np.stack([x - shift[0], y - shift[1], z - shift[2]])
        return shape.value(*local)

    around = shape.bounding_sphere
    moved = (turn @ around[0] + shift, around[1]) if around else None
    return Shape(value, shape.lipschitz, shape.unit, moved)


def scaled_axes(shape: Shape, factors: Vector) -> Shape:
    """The shape scaled along the axes; values by the least factor, which keeps the bound."""
    a, b, c = factors
    least = min(factors)
    return Shape(lambda x, y, z: least * shape.value(x / a, y / b, z / c), shape.lipschitz)


def scaled(shape: Shape, centre: Float[np.ndarray, "3"], factor: float) -> Shape:
    """`centre` moved to the origin, then everything made `factor` times larger."""
    a, b, c = centre

    def value(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return factor * shape.value(x / factor + a, y / factor + b, z / factor + c)

    return Shape(value, shape.lipschitz, shape.unit * factor)


def rotation(axis: Vector, degrees: Number) -> Float[np.ndarray, "3 3"]:
    """The rotation about `axis` (Rodrigues' formula)."""
    x, y, z = normalised(np.array(axis, float))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
