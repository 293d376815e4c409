"""Objects made of formulas: exact surfaces, normals and distances for demonstration and tests.

Each is designed about one unit in size, z up, inside the cube |x|, |y|, |z| < `HALF_SIDE`, and
without symmetries that would leave camera poses undetermined. At each relief stands where its
Lipschitz constant comes from (slopes of its parts, added where they act at the same place).
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline

from pmni.synthetic.shapes import (
    Shape,
    Vector,
    box,
    capsule,
    capsules,
    cylinder,
    difference,
    displaced,
    half_space,
    intersection,
    rotation,
    scaled_axes,
    shell,
    smooth_minimum,
    sphere,
    spheres,
    torus,
    transformed,
    union,
)

HALF_SIDE = 1.25


# ----------------------------------------------------------------------- parts
def _tube(rows: list[list[float]], count: int, blend: float) -> Shape:
    """A smooth tube through rows of (x, y, z, radius), of `count` balls."""
    table = np.array(rows)
    lengths = np.linalg.norm(np.diff(table[:, :3], axis=0), axis=1)
    at = np.concatenate([[0.0], np.cumsum(lengths)])
    dense = CubicSpline(at, table)(np.linspace(0, at[-1], count))
    return spheres(dense[:, :3], dense[:, 3], blend)


def _rods(
    starts: Float[np.ndarray, "M 3"],
    ends: Float[np.ndarray, "M 3"],
    radius: float,
    end_radius: float,
    blend: float,
) -> Shape:
    """Rods of one size; side by side and with a wide blend they grow into a ribbed web."""
    count = len(starts)
    return capsules(starts, ends, np.full(count, radius), np.full(count, end_radius), blend)


def _bump(at: np.ndarray) -> np.ndarray:
    """A smooth hill of height 1 over -1 < at < 1; its slope is less than 1.54."""
    hill = np.maximum(1 - at * at, 0)
    return hill * hill


def _fin(
    root: tuple[Vector, Vector], tip: tuple[Vector, Vector], count: int, curl: float = 0.0
) -> Shape:
    """A fin of ribs from the line `root` to the line `tip`, whose middle `curl` pulls inwards."""
    along = np.linspace(0, 1, count)[:, None]
    starts = (1 - along) * root[0] + along * np.array(root[1])
    ends = (1 - along) * tip[0] + along * np.array(tip[1])
    ends += 4 * curl * along * (1 - along) * (starts - ends)
    return _rods(starts, ends, 0.010, 0.003, 0.036)


def _water(centre: Vector, height: float, count: float) -> Shape:
    """A round of water, rings running out from a centre. Lipschitz: height * count."""

    def rings(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        away = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2)
        return height * np.sin(count * away + 1.5)

    base = scaled_axes(cylinder(-0.05, 0.05, 0.42, 0.04), (1.15, 1.0, 1.0))
    return displaced(
        transformed(base, (centre[0] + 0.06, centre[1], centre[2])), rings, height * count
    )


# -------------------------------------------------------------- smooth: a duck
def _blob() -> Shape:
    """A resting duck, as of a polished pebble, its head turned aside."""
    body = _tube(
        [
            [-0.80, -0.18, 0.06, 0.04], [-0.60, -0.11, -0.10, 0.08], [-0.30, -0.02, -0.24, 0.26],
            [0.05, 0.02, -0.28, 0.33], [0.34, 0.03, -0.12, 0.20], [0.38, 0.05, 0.14, 0.10],
            [0.32, 0.13, 0.36, 0.13], [0.42, 0.28, 0.38, 0.06], [0.52, 0.42, 0.35, 0.02],
        ],
        14,
        0.09,
    )  # fmt: skip
    return intersection(body, half_space((0, 0, -1), 0.60), blend=0.25)


# -------------------------------------------------------------- detailed: a carp
def _scales(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Overlapping scales on both flanks: domes tilted towards the tail, the highest wins.

    Each is at most 0.017 high, falls by at most 0.6 per length to its rim, and fades over 0.15
    where the body ends: Lipschitz 0.6 + 0.017 / 0.15 < 0.72.
    """
    pitch_x, pitch_z, size = 0.080, 0.085, 0.060
    height = np.zeros_like(x)
    column = np.floor(x / pitch_x)
    for step in (-1, 0, 1):
        i = column + step
        shift = 0.5 * np.mod(i, 2)
        j = np.rint(z / pitch_z - shift)
        du, dv = x - (i + 0.5) * pitch_x, z - (j + shift) * pitch_z
        inner = size - np.sqrt(du * du + dv * dv)
        dome = smooth_minimum(0.6 * inner, 0.010 - 0.11 * du, 0.010)
        height = -smooth_minimum(-height, -dome, 0.006)
    return height * np.clip((0.58 - np.abs(x + 0.08)) / 0.15, 0, 1)


def _fish() -> Shape:
    """A carp with scales and ribbed fins that leaps out of the water."""
    body = _tube(
        [
            [0.90, 0.14, 0.02, 0.07], [0.80, 0.10, 0.02, 0.14], [0.60, 0.03, 0.04, 0.23],
            [0.30, -0.05, 0.05, 0.31], [0.00, -0.07, 0.04, 0.30], [-0.30, -0.03, 0.02, 0.22],
            [-0.55, 0.06, 0.00, 0.13], [-0.75, 0.18, 0.00, 0.09],
        ],
        24,
        0.02,
    )  # fmt: skip
    body = displaced(scaled_axes(body, (1.0, 0.75, 1.0)), _scales, 0.72)
    gill = shell(
        transformed(scaled_axes(sphere((0, 0, 0), 0.25), (0.8, 1.6, 1.0)), (0.52, 0, 0.03)), 0.02
    )
    gill = intersection(gill, half_space((1, 0, 0), 0.54), blend=0.01)
    mouth = sphere((0.99, 0.15, 0.0), 0.06)
    body = difference(body, gill, mouth, blend=0.03)
    eyes = union(sphere((0.70, 0.20, 0.11), 0.05), sphere((0.72, -0.105, 0.11), 0.05), blend=0.01)

    tail = np.linspace(-1, 1, 9)
    fins = [
        _rods(
            np.stack([0 * tail - 0.74, 0 * tail + 0.135, 0.05 * tail], 1),
            np.stack([-0.98 - 0.12 * tail**2, 0.30 + 0.05 * tail**2, 0.34 * tail], 1),
            0.018, 0.008, 0.03,
        ),
        _fin(
            ((0.34, -0.05, 0.28), (-0.36, 0.0, 0.15)),
            ((0.22, -0.04, 0.60), (-0.54, 0.06, 0.30)), 14, -0.10,
        ),
        _fin(
            ((0.34, 0.16, -0.12), (0.29, 0.16, -0.15)),
            ((0.18, 0.50, -0.26), (0.04, 0.34, -0.40)), 6,
        ),
        _fin(
            ((0.34, -0.22, -0.12), (0.29, -0.22, -0.15)),
            ((0.06, -0.44, -0.18), (0.00, -0.34, -0.36)), 6,
        ),
    ]  # fmt: skip
    fish = transformed(
        union(body, eyes, *fins, blend=0.04), (0.05, 0, 0.10), rotation((0, 1, 0), -50)
    )

    turn = np.arange(9) * 2 * np.pi / 9
    out = np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
    leap = np.outer(0.25 + 0.12 * np.sin(2.4 * np.arange(9) ** 1.5), [0, 0, 1])
    foot = (-0.40, 0.08, -0.92)
    splash = _rods(foot + 0.16 * out, foot + 0.30 * out + leap, 0.05, 0.02, 0.03)
    return union(fish, union(_water(foot, 0.011, 45.0), splash, blend=0.06), blend=0.06)


# ----------------------------------------------------------- thin parts: a heron
def _heron() -> Shape:
    """A wading bird with a long neck, on two legs among reeds."""
    body = _tube(
        [
            [-0.50, 0.02, -0.20, 0.03], [-0.30, 0.01, -0.08, 0.12], [-0.05, 0.00, 0.03, 0.18],
            [0.18, 0.00, 0.10, 0.15], [0.33, 0.01, 0.20, 0.085], [0.36, 0.03, 0.34, 0.065],
            [0.26, 0.05, 0.48, 0.055], [0.14, 0.04, 0.60, 0.052], [0.12, 0.00, 0.74, 0.052],
            [0.20, -0.04, 0.84, 0.068], [0.31, -0.07, 0.85, 0.052],
        ],
        44,
        0.012,
    )  # fmt: skip
    beak = capsule((0.31, -0.07, 0.85), (0.68, -0.17, 0.80), 0.040, 0.008)
    plumes = _rods(
        np.array([[0.17, -0.03, 0.88], [0.16, -0.02, 0.87]]),
        np.array([[-0.12, 0.03, 0.86], [-0.10, 0.09, 0.80]]),
        0.024, 0.012, 0.01,
    )  # fmt: skip
    along = np.linspace(0, 1, 6)
    wings = [
        _rods(
            np.stack([0.14 - 0.16 * along, side * (0.16 + 0.015 * along), 0.16 - 0.14 * along], 1),
            np.stack([0.13 * along - 0.56, side * (0.06 + 0.06 * along), -0.1 - 0.12 * along], 1),
            0.05, 0.022, 0.015,
        )
        for side in (1, -1)
    ]  # fmt: skip
    bird = union(body, beak, plumes, *wings, blend=0.05)

    hips = np.array([[0.02, 0.08, -0.10], [0.02, -0.08, -0.10]])
    knees = np.array([[-0.06, 0.09, -0.48], [-0.10, -0.08, -0.46]])
    feet = np.array([[0.04, 0.10, -0.90], [-0.12, -0.12, -0.90]])
    toes = np.array([[0.14, 0.02, 0], [0.10, 0.09, 0], [-0.08, 0.01, 0], [0.10, -0.08, 0]])
    legs = union(
        _rods(hips, knees, 0.045, 0.024, 0.006),
        _rods(knees, feet, 0.024, 0.022, 0.006),
        _rods(np.repeat(feet, 4, 0), np.repeat(feet, 4, 0) + np.tile(toes, (2, 1)),
              0.024, 0.014, 0.008),
        blend=0.01,
    )  # fmt: skip
    reeds = union(
        _rods(
            np.array([[-0.26, 0.25, -0.92], [-0.36, 0.14, -0.92]]),
            np.array([[-0.12, 0.42, -0.10], [-0.52, 0.10, -0.25]]),
            0.026, 0.014, 0.01,
        ),
        capsule((-0.30, 0.20, -0.92), (-0.345, 0.305, 0.30), 0.022, 0.018),
        capsule((-0.345, 0.305, 0.25), (-0.355, 0.325, 0.45), 0.04),
        blend=0.03,
    )  # fmt: skip
    ground = _water((-0.06, 0.02, -0.95), 0.007, 40.0)
    return union(bird, union(legs, ground, reeds, blend=0.03), blend=0.05)


# ------------------------------------------------------ nearly of revolution: a jar
def _vine(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """A vine with unequal leaves round the belly between two rings, and flutes below it.

    It fades in from 0.25 to 0.45 away from the axis (`out`), where an angle's slope is 1 / out.
    Vine: 0.020 * 1.54 / 0.046 * |(1, 0.085 * 5.7 / out)| < 0.985 at 0.45, and less than that
    times `fade` nearer to the axis (leaves are less steep; the higher of both wins); rings:
    0.014 * 1.54 / 0.036 < 0.60, apart from the vine; flutes, apart from both:
    0.008 * |(1 / 0.06, 12 / out)| < 0.26; fade itself: 0.020 / 0.2. Lipschitz 0.985 + 0.1 < 1.1.
    """
    angle = np.arctan2(y, x)
    out = np.sqrt(x * x + y * y)
    phase = 5 * angle + 0.7 * np.sin(angle)
    stem = 0.06 + 0.085 * np.sin(phase)
    vine = 0.020 * _bump((z - stem) / 0.046)

    turn = phase / np.pi + 0.5
    leaf = np.mod(np.floor(turn), 10)
    across = (np.mod(turn, 1) - 0.5) * 0.36
    up = (z - 0.06) * (1 - 2 * np.mod(leaf, 2)) + 0.04
    size = 0.8 + 0.4 * np.mod(leaf * 0.618, 1)
    oval = np.maximum(1 - (across / (0.12 * size)) ** 2 - (up / (0.07 * size)) ** 2, 0)
    leaves = oval * (0.020 - 0.006 * _bump(across / 0.027))

    above = np.clip((z + 0.56) / 0.06, 0, 1) * np.clip((-0.20 - z) / 0.06, 0, 1)
    flutes = 0.008 * np.abs(np.sin(12 * angle)) * above
    rings = _bump((z - 0.27) / 0.036) + _bump((z + 0.15) / 0.036)
    fade = np.clip((out - 0.25) / 0.2, 0, 1)
    return fade * (np.maximum(vine, leaves) + flutes + 0.014 * rings)


def _pot() -> Shape:
    """A jar with a vine in low relief, and one small handle."""
    heights = np.array([-0.50, -0.30, -0.05, 0.12, 0.28, 0.42])
    radii = np.array([0.20, 0.42, 0.58, 0.54, 0.38, 0.22])
    axis = np.outer(heights, [0, 0, 1])
    belly = displaced(spheres(axis, radii, 0.05), _vine, 1.1)
    foot = cylinder(-0.78, -0.68, 0.30, 0.025)
    neck = cylinder(0.30, 0.72, 0.215, 0.02)
    lip = torus(0.72, 0.225, 0.045)
    handle = transformed(torus(0.0, 0.17, 0.035), (0.40, 0, 0.42), rotation((1, 0, 0), 90))
    jar = union(belly, foot, neck, lip, handle, blend=0.07)
    return difference(
        jar, capsule((0, 0, 0.50), (0, 0, 1.0), 0.17), sphere((0, 0, 0), 0.48), blend=0.03
    )


# ------------------------------------------------------------- concave: a shell
def _shell() -> Shape:
    """A fluted scallop as a dish, with pearls in it, on a branch of coral."""
    flutes = 22  # in a full turn about the hinge, half of which is there

    def polar(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b = x + 0.80, y + 0.13  # from the hinge
        away = np.sqrt(a * a + b * b)
        return away, away * np.cos(flutes * np.arctan2(b, a))

    # the slope of away * cos(22 angle) is below sqrt(1 + 22^2) < 22.03
    def corrugation(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        away, waves = polar(x, y)
        return 0.026 * waves + 0.003 * np.sin(55 * away + 3 * np.sin(2 * away))

    def rim(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return 0.03 * polar(x, y)[1] + 0.1 * x

    bowl = scaled_axes(sphere((0, 0, 0), 0.80), (1.0, 0.95, 0.70))
    bowl = shell(displaced(bowl, corrugation, 0.026 * 22.03 + 0.003 * 61), 0.05)
    open_side = displaced(half_space((0, 0, 1), -0.10), rim, 0.03 * 22.03 + 0.1)
    bowl = intersection(bowl, open_side, blend=0.03)
    pearls = union(
        sphere((0.22, 0.16, -0.37), 0.14),
        sphere((0.02, -0.12, -0.42), 0.09),
        sphere((0.34, -0.10, -0.42), 0.07),
        blend=0.01,
    )
    turn = rotation((1, 0, 0), 10) @ rotation((0, 1, 0), 24)
    dish = transformed(union(bowl, pearls, blend=0.02), (0, 0, 0.25), turn)
    coral = capsules(
        np.tile([-0.15, 0, -0.75], (4, 1)),
        np.array(
            [[-0.2, 0.02, -0.35], [0.3, 0.25, -0.8], [0.22, -0.34, -0.8], [-0.62, 0.08, -0.8]]
        ),
        np.array([0.12, 0.10, 0.10, 0.10]),
        np.array([0.14, 0.05, 0.05, 0.05]),
        0.03,
    )
    return union(dish, coral, blend=0.08)


# --------------------------------------------------------- interlaced: a knot
def _knot() -> Shape:
    """A trefoil knot of swelling and thinning cord on a plinth."""
    t = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    away = 0.47 + 0.17 * np.cos(3 * t)
    centres = np.stack([away * np.cos(2 * t), away * np.sin(2 * t), 0.20 * np.sin(3 * t)], 1)
    cord = spheres(centres, 0.075 + 0.030 * np.sin(t + 0.6) + 0.010 * np.sin(2 * t), 0.03)
    turn = rotation((0, 0, 1), 25) @ rotation((1, 0.25, 0), 78)
    plinth = union(
        transformed(box((0.34, 0.26, 0.07), 0.03), (0, 0, -0.82)),
        transformed(box((0.26, 0.20, 0.10), 0.02), (0, 0, -0.70)),
        blend=0.03,
    )
    return union(transformed(cord, (0, 0, -0.04), turn), plinth, blend=0.08)


SCENES: dict[str, Callable[[], Shape]] = {
    "blob": _blob,
    "fish": _fish,
    "heron": _heron,
    "knot": _knot,
    "pot": _pot,
    "shell": _shell,
}
"""Each scene by name: smooth, detailed, thin parts, interlaced, near-revolution, concave."""
