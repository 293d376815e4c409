"""Solids made of formulas: values worked out by hand, and the promised Lipschitz bounds."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmni.synthetic import shapes
from pmni.synthetic.scenes import HALF_SIDE, SCENES
from pmni.synthetic.shapes import Shape


def value(shape: Shape, *point: float) -> float:
    return float(shape(np.array([point], float))[0])


def some_limbs() -> Shape:
    starts = np.array([[0.0, 0, 0], [0.2, 0.1, 0]])
    ends = np.array([[0.5, 0, 0.2], [-0.3, 0.1, 0.4]])
    return shapes.capsules(starts, ends, np.array([0.2, 0.05]), np.array([0.05, 0.15]), 0.03)


BALL = shapes.sphere((0.1, 0, -0.2), 0.4)
BOX = shapes.box((0.4, 0.3, 0.2), 0.05)
WAVES = shapes.displaced(BALL, lambda x, y, z: 0.05 * np.sin(10 * x), 0.5)
SHAPES = {
    "ball": BALL,
    "balls": shapes.spheres(np.array([[0.0, 0, 0], [0.3, 0, 0]]), np.array([0.2, 0.3]), 0.1),
    "limbs": some_limbs(),
    "rod": shapes.capsule((0, 0, 0), (0.3, 0.4, 0), 0.1),
    "ring": shapes.torus(0.1, 0.5, 0.1),
    "disc": shapes.cylinder(-0.2, 0.1, 0.5, 0.05),
    "box": BOX,
    "half_space": shapes.half_space((1, 2, 2), 0.3),
    "union": shapes.union(BALL, BOX, shapes.torus(0.1, 0.5, 0.1), blend=0.1),
    "blended": shapes.union(BALL, shapes.capsule((0, 0, 0), (0.3, 0.4, 0), 0.1), blend=0.3),
    "intersection": shapes.intersection(BALL, BOX, blend=0.1),
    "difference": shapes.difference(BALL, BOX, blend=0.1),
    "hollow": shapes.shell(BALL, 0.05),
    "relief": WAVES,
    "moved": shapes.transformed(WAVES, (0.1, 0.2, 0.3), shapes.rotation((1, 1, 0), 40)),
    "stretched": shapes.scaled_axes(BALL, (0.5, 1.0, 2.0)),
    "scaled": shapes.scaled(WAVES, np.array([0.1, 0, 0]), 80.0),
}


class TestValues:
    def test_distances_by_hand(self) -> None:
        assert value(shapes.sphere((0, 0, 1), 0.5), 3, 0, 5) == pytest.approx(4.5)
        assert value(shapes.half_space((0, 0, 2), 0.5), 7, 7, 2) == pytest.approx(1.5)
        assert value(shapes.torus(1.0, 2.0, 0.5), 0, 5, 5) == pytest.approx(4.5)
        rod = shapes.capsule((0, 0, 0), (2, 0, 0), 0.5)
        assert value(rod, 1, 3, 0) == pytest.approx(2.5)
        assert value(rod, 5, 4, 0) == pytest.approx(4.5)  # from its end
        cone = shapes.capsule((0, 0, 0), (2, 0, 0), 0.5, 0.1)
        assert value(cone, 1, 3, 0) == pytest.approx(3 - 0.3)

    def test_disc_and_box_by_hand(self) -> None:
        disc = shapes.cylinder(-1.0, 1.0, 2.0, 0.25)
        assert value(disc, 0, 5, 0) == pytest.approx(3)
        assert value(disc, 0, 0, 3) == pytest.approx(2)
        assert value(disc, 0, 0, 0) == pytest.approx(-1)
        # from the rounded rim, whose circle is at out 1.75, up 0.75
        assert value(disc, 0, 1.75 + 3, 0.75 + 4) == pytest.approx(4.75)
        box = shapes.box((1, 2, 3), 0.5)
        assert value(box, 2, 0, 0) == pytest.approx(1)
        assert value(box, 0, 0, 0) == pytest.approx(-1)
        assert value(box, 0.5 + 2, 1.5 + 3, 2.5 + 6) == pytest.approx(7 - 0.5)

    def test_smooth_minimum(self) -> None:
        one, two = np.array([0.3]), np.array([0.5])
        assert shapes.smooth_minimum(one, two, 0.1)[0] == pytest.approx(0.3)  # too far apart
        assert shapes.smooth_minimum(one, one, 0.6)[0] == pytest.approx(0.3 - 0.6 / 6)
        assert shapes.smooth_minimum(one, two, 0.4)[0] == pytest.approx(0.3 - 0.5**3 * 0.4 / 6)

    def test_balls_that_coincide_swell_by_the_logarithm_of_their_number(self) -> None:
        three = shapes.spheres(np.zeros((3, 3)), np.full(3, 0.2), 0.1)
        assert value(three, 0, 1, 0) == pytest.approx(0.8 - 0.1 * np.log(3))

    def test_operations_by_hand(self) -> None:
        left, right = shapes.half_space((1, 0, 0), 1.0), shapes.half_space((0, 1, 0), 1.0)
        assert value(shapes.union(left, right, blend=0.1), 3, 5, 0) == pytest.approx(2)
        assert value(shapes.intersection(left, right, blend=0.1), 3, 5, 0) == pytest.approx(4)
        assert value(shapes.difference(left, right, blend=0.1), 3, 5, 0) == pytest.approx(2)
        assert value(shapes.difference(left, right, blend=0.1), -3, -5, 0) == pytest.approx(6)
        assert value(shapes.shell(left, 0.5), 3, 0, 0) == pytest.approx(1.75)
        raised = shapes.displaced(left, lambda x, y, z: 0 * x + 0.25, 0.0)
        assert value(raised, 3, 0, 0) == pytest.approx(1.75)

    def test_transforms_by_hand(self) -> None:
        ball = shapes.sphere((1, 0, 0), 0.5)
        turned = shapes.transformed(ball, (0, 0, 2), shapes.rotation((0, 0, 1), 90))
        assert value(turned, 0, 1, 2) == pytest.approx(-0.5)
        larger = shapes.scaled(ball, np.array([1.0, 0, 0]), 10.0)
        assert value(larger, 0, 0, 0) == pytest.approx(-5)
        assert value(larger, 0, 8, 0) == pytest.approx(3)
        flat = shapes.scaled_axes(shapes.sphere((0, 0, 0), 1.0), (1, 1, 0.5))
        assert value(flat, 0, 0, 0.5) == pytest.approx(0)
        assert value(flat, 1, 0, 0) == pytest.approx(0)

    def test_many_points_are_evaluated_in_their_order(self) -> None:
        points = np.random.default_rng(0).normal(size=(5001, 3))
        expected = np.linalg.norm(points - [0.1, 0, -0.2], axis=1) - 0.4
        np.testing.assert_allclose(BALL(points), expected, atol=1e-14)
        assert BALL(points[:0]).shape == (0,)


class TestGradients:
    def test_of_a_ball(self) -> None:
        points = np.random.default_rng(1).normal(size=(100, 3))
        np.testing.assert_allclose(
            BALL.gradient(points), shapes.normalised(points - [0.1, 0, -0.2]), atol=1e-9
        )

    @pytest.mark.parametrize("name", SCENES)
    def test_of_scenes_are_exact_to_a_microradian(self, name: str) -> None:
        """Against fourth-order differences, which are as good with steps a hundred times wider."""
        shape = SCENES[name]()
        points = np.random.default_rng(2).uniform(-0.6, 0.6, (1000, 3))
        step, exact = 2e-4, np.zeros((1000, 3))
        for axis, shift in enumerate(step * np.eye(3)):
            near = shape(points + shift) - shape(points - shift)
            far = shape(points + 2 * shift) - shape(points - 2 * shift)
            exact[:, axis] = (8 * near - far) / (12 * step)
        gradient = shape.gradient(points)
        error = np.linalg.norm(gradient - exact, axis=1) / np.linalg.norm(gradient, axis=1)
        # seams of the relief, where there is no gradient, are met now and then
        assert np.quantile(error, 0.95) < 1e-6


class TestLeavingOutFarParts:
    @pytest.mark.parametrize("name", [name for name in SHAPES if SHAPES[name].bounding_sphere])
    def test_shapes_lie_within_their_balls(self, name: str) -> None:
        """Everywhere: the value is at least the distance to the ball."""
        shape, (centre, radius) = SHAPES[name], SHAPES[name].bounding_sphere
        for spread in (0.3, 1.0, 10.0):
            points = np.random.default_rng(3).normal(size=(2000, 3)) * spread
            bound = np.linalg.norm(points - centre, axis=1) - radius
            assert (shape(points) - bound).min() > -1e-12

    def test_these_shapes_have_balls(self) -> None:
        having = {name for name in SHAPES if SHAPES[name].bounding_sphere}
        assert having == {"ball", "balls", "limbs", "rod", "blended", "intersection", "difference"}

    def test_changes_nothing(self) -> None:
        """Near, far, and where a part is evaluated for some of the points only."""
        parts = [some_limbs(), SHAPES["balls"], shapes.transformed(BALL, (0.5, 0, 0)), BALL]
        points = np.random.default_rng(4).uniform(-1.2, 1.2, (4000, 3))
        for operation, signs in (("union", (1, 1)), ("difference", (-1, 1))):
            expected = signs[0] * BOX(points)
            for part in parts:
                expected = shapes.smooth_minimum(expected, signs[1] * part(points), 0.1)
            found = getattr(shapes, operation)(BOX, *parts, blend=0.1)(points)
            np.testing.assert_allclose(found, signs[0] * expected, atol=1e-15)


class TestLipschitzBounds:
    @pytest.mark.parametrize("name", SHAPES)
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 10**6), distance=st.floats(1e-4, 1.0))
    def test_of_shapes(self, name: str, seed: Any, distance: Any) -> None:
        assert largest_slope(SHAPES[name], seed, distance, 100) <= 1 + 1e-9

    @pytest.mark.parametrize("name", SCENES)
    @settings(max_examples=10, deadline=None)
    @given(seed=st.integers(0, 10**6), distance=st.sampled_from([1e-4, 1e-3, 0.01, 0.1, 1.0]))
    def test_of_scenes(self, name: str, seed: Any, distance: Any) -> None:
        assert largest_slope(SCENES[name](), seed, distance, 2000) <= 1 + 1e-9

    def test_are_tight_for_distances(self) -> None:
        for name in ("ball", "rod", "ring", "disc", "box", "half_space"):
            assert SHAPES[name].lipschitz == 1
            assert largest_slope(SHAPES[name], 0, 1e-3, 1000) > 0.99
        assert SHAPES["scaled"].lipschitz == WAVES.lipschitz == 1.5

    def test_taper_of_rods_counts(self) -> None:
        cone = shapes.capsule((0, 0, 0), (0.3, 0, 0), 0.5, 0.1)
        assert cone.lipschitz == pytest.approx(5 / 3)
        assert largest_slope(cone, 0, 1e-3, 5000) > 0.95


def largest_slope(shape: Shape, seed: int, distance: float, count: int) -> float:
    """Of random pairs of points this far apart, relative to the bound."""
    rng = np.random.default_rng(seed)
    distance *= shape.unit
    points = shape.unit * rng.uniform(-HALF_SIDE, HALF_SIDE, (count, 3))
    others = points + distance * shapes.normalised(rng.normal(size=(count, 3)))
    return float(np.abs(shape(points) - shape(others)).max() / distance / shape.lipschitz)
