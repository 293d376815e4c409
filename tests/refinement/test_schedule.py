"""How many steps on which grid."""

from dataclasses import replace

import pytest
from fixtures.refinement import blob, cameras, refined

from pmni.config.refinement import (
    ScheduleSettings,
)
from pmni.refinement.report import IterationReport
from pmni.refinement.solver import GaussNewtonSolver

SCHEDULE = ScheduleSettings()
GOOD = IterationReport(
    iteration=22, cells=128, normal_residual_deg=5.0, contour_residual_px=0.3,
    worst_view=3, worst_normal_residual_deg=7.0, hit_fraction=0.99,
    rotation_change_deg=0.02, largest_rotation_change_deg=0.05, translation_change=1e-3,
    surface_change=1e-4, normal_tilt_bias=0.03, focal_factor=1.0,
)  # fmt: skip


def test_the_last_steps_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """1/2, 1/3, ... of them, which makes the running mean of what the steps lead to."""
    gains: dict[int, list[float]] = {}

    def step(self: GaussNewtonSolver, cells: int, gain: float = 1.0) -> IterationReport:
        gains.setdefault(cells, []).append(gain)
        return GOOD

    monkeypatch.setattr(GaussNewtonSolver, "step", step)
    refined(blob()[0], cameras(), iterations=[2, 1, SCHEDULE.full_steps + 3])
    assert gains == {32: [1.0] * 2, 64: [1.0] * SCHEDULE.full_steps + [1 / 2, 1 / 3, 1 / 4]}


@pytest.mark.parametrize(
    ("left", "steps"),
    [
        (0.995, [2, 4, SCHEDULE.full_steps]),
        (0.98, [2, 4, int(SCHEDULE.patience) * SCHEDULE.full_steps]),
        (0.95, [2, int(SCHEDULE.patience) * 4, int(SCHEDULE.patience) * SCHEDULE.full_steps]),
    ],
)
def test_a_grid_has_more_steps_while_the_normals_come_to_fit_better(
    monkeypatch: pytest.MonkeyPatch, left: float, steps: list[int]
) -> None:
    """Each step leaves so much of the residual; two of 0.98 are enough on the finest grid only."""
    taken: list[int] = []

    def step(self: GaussNewtonSolver, cells: int, gain: float = 1.0) -> IterationReport:
        taken.append(cells)
        return replace(GOOD, cells=cells, normal_residual_deg=10 * left ** len(taken))

    monkeypatch.setattr(GaussNewtonSolver, "step", step)
    refined(blob()[0], cameras(), cells=128, iterations=[2, 4, SCHEDULE.full_steps])
    assert [taken.count(cells) for cells in (32, 64, 128)] == steps
