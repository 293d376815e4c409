"""Joint refinement, coarse to fine: which grids, how many steps on each, and when it is enough."""

from collections.abc import Iterator

from pmni.refinement.outlier_views import relocalize_outlier_views
from pmni.refinement.solver import GaussNewtonSolver, Report

AT_REST_DEG, PATIENCE = 1.0, 3
"""Largest turn of a camera in a step that ends the iterations on the coarsest grid, and how many
times as many iterations as usual a grid may have."""
BETTER, BETTER_AT_LAST = 0.95, 0.98
"""Part of the normals' residual that two iterations may leave for another to be worth while, and on
the finest grid, after which none makes up for it."""
FULL_STEPS = 5
"""On the finest grid. Of those after them only the part 1/2, 1/3, ... is done: so the result is the
mean of their solutions and the last, for all draws of pixels since (Robbins and Monro, 1951)."""


def coarse_to_fine(solver: GaussNewtonSolver) -> Iterator[Report]:
    """All outer iterations.

    On the coarsest grid they go on until the cameras have come to rest, on the others as long as
    the surface comes to fit the normals better: PATIENCE times as many as usual at most. Between
    grids, views that went astray are looked for.
    """
    cells = solver.coarsest
    while cells <= solver.cells:
        phase = _phase(solver, cells)
        usual = solver.settings.iterations[phase]
        whole = min(usual, FULL_STEPS) if phase == 2 else usual
        reports: list[Report] = []
        while len(reports) < whole or (
            len(reports) < PATIENCE * whole and _worth_while(solver, reports)
        ):
            reports.append(solver.step(cells))
            yield reports[-1]
        for done in range(1, usual - whole + 1):
            yield solver.step(cells, 1 / (done + 1))
        if solver.settings.learn_poses and cells < solver.cells and reports[-1].has_stray:
            relocalize_outlier_views(solver)
        cells *= 2


def _worth_while(solver: GaussNewtonSolver, reports: list[Report]) -> bool:
    """Whether another iteration on the same grid is."""
    if reports[-1].cells == solver.coarsest:
        return reports[-1].largest_rotation_change_deg >= AT_REST_DEG
    fit = [report.normal_residual_deg for report in reports]
    part = BETTER_AT_LAST if _phase(solver, reports[-1].cells) == 2 else BETTER
    return fit[-1] < part * fit[max(0, len(fit) - 3)]


def _phase(solver: GaussNewtonSolver, cells: int) -> int:
    """0 on the coarsest grid, 2 on the finest, 1 between."""
    return 0 if cells == solver.coarsest else 2 if cells == solver.cells else 1
