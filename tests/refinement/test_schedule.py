"""How many steps on which grid."""

from dataclasses import replace
from itertools import groupby

import pytest
import torch
from fixtures.refinement import blob, cameras, refined

from pmni.config.refinement import (
    ScheduleSettings,
)
from pmni.refinement.report import IterationReport
from pmni.refinement.solver import GaussNewtonSolver
from pmni.refinement.stereo import StereoPoints

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
        return replace(GOOD, cells=cells, normal_residual_deg=8 * left ** len(taken))

    monkeypatch.setattr(GaussNewtonSolver, "step", step)
    refined(blob()[0], cameras(), cells=128, iterations=[2, 4, SCHEDULE.full_steps])
    assert [taken.count(cells) for cells in (32, 64, 128)] == steps


@pytest.mark.parametrize(
    ("residual", "grids"), [(8.9, [32, 64, 128]), (9.1, [32, 64, 32, 64, 128])]
)
def test_normals_that_do_not_fit_each_other_begin_again_with_stereo(
    monkeypatch: pytest.MonkeyPatch, residual: float, grids: list[int]
) -> None:
    """Once; then points are looked for anew after every second iteration of the finer grids."""
    taken: list[int | str] = []

    def step(self: GaussNewtonSolver, cells: int, gain: float = 1.0) -> IterationReport:
        taken.append(cells)
        return replace(GOOD, cells=cells, normal_residual_deg=residual)

    def match_views(self: GaussNewtonSolver) -> None:
        taken.append("match")
        self.stereo = StereoPoints(torch.zeros(10, 1, 3), torch.ones(10, 1, dtype=torch.bool))

    monkeypatch.setattr(GaussNewtonSolver, "step", step)
    monkeypatch.setattr(GaussNewtonSolver, "match_views", match_views)
    refined(
        blob()[0], cameras(), cells=128, iterations=[1, 4, 4], stereo={"interval": 2},
        schedule={"patience": 1},
    )  # fmt: skip
    steps = [cells for cells in taken if cells != "match"]
    assert [cells for cells, _ in groupby(steps)] == grids
    if len(grids) > 3:
        assert taken[5:] == ["match", 32, *["match", 64, 64] * 2, *["match", 128, 128] * 2]
