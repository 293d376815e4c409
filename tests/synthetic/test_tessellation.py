"""Meshes of implicit shapes."""

import numpy as np
import pytest

from pmni.synthetic import shapes
from pmni.synthetic.tessellation import fit_to_sphere, project_to_surface


class TestOntoSurface:
    def test_points_land_on_a_sphere(self) -> None:
        ball = shapes.sphere((0, 0, 0), 0.5)
        start = np.random.default_rng(0).normal(size=(100, 3))
        start *= (0.5 + 0.02 * start[:, :1]) / np.linalg.norm(start, axis=1, keepdims=True)
        end = project_to_surface(ball, start, 0.1)
        assert np.abs(ball(end)).max() < 1e-9
        assert np.linalg.norm(end - start, axis=1).max() < 0.07


def test_fit_by_hand() -> None:
    centre, factor = fit_to_sphere(np.array([[0.0, 0, 0], [2, 0, 0], [0, 4, 4]]), 6.0)
    np.testing.assert_allclose(centre, [1, 2, 2])
    assert factor == pytest.approx(2)
