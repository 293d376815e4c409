"""The motion of a surface between two tests."""

import numpy as np
import pytest
from fixtures.analytic_sdfs import Analytic, sphere
from fixtures.training import CPU, TINY, occupancy_grid

from pmni.training.convergence import ConvergenceTest


def test_the_motion_is_the_distance_between_surfaces() -> None:
    occupancy = occupancy_grid(32, 0.1, CPU)
    occupancy.refresh(sphere(0.5))
    test = ConvergenceTest(TINY.convergence)
    assert test.surface_motion(sphere(0.5), occupancy) == np.inf
    assert test.surface_motion(sphere(0.5), occupancy) == pytest.approx(0, abs=1e-6)
    assert test.surface_motion(sphere(0.53), occupancy) == pytest.approx(0.03, rel=1e-4)
    again = ConvergenceTest(TINY.convergence, test.points)
    assert again.surface_motion(Analytic(lambda x: 2 * sphere(0.5)(x)), occupancy) == pytest.approx(
        0.03, rel=1e-4
    )
