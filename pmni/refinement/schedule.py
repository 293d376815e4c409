"""Joint refinement, coarse to fine: which grids, how many steps on each, and when it is enough."""

from collections.abc import Callable, Iterator

from pmni.refinement.outlier_views import relocalize_outlier_views
from pmni.refinement.report import IterationReport
from pmni.refinement.solver import GaussNewtonSolver


def coarse_to_fine(
    solver: GaussNewtonSolver, progress: Callable[[str], None] = lambda line: None
) -> Iterator[IterationReport]:
    """All outer iterations.

    On the coarsest grid they go on until the cameras have converged, on the others as long as the
    surface comes to fit the normals better: `schedule.patience` times as many as usual at most.
    Between grids, outlier views are relocalised.
    """
    settings = solver.settings
    cells = solver.coarsest
    while cells <= solver.cells:
        phase = _phase(solver, cells)
        usual = settings.iterations[phase]
        full = min(usual, settings.schedule.full_steps) if phase == 2 else usual
        reports: list[IterationReport] = []
        while len(reports) < full or (
            len(reports) < settings.schedule.patience * full and _worthwhile(solver, reports)
        ):
            reports.append(solver.step(cells))
            yield reports[-1]
        for averaged in range(1, usual - full + 1):
            yield solver.step(cells, 1 / (averaged + 1))
        outlier = reports[-1].has_outlier_view(settings.outlier_views.residual_ratio)
        if settings.learn_poses and cells < solver.cells and outlier:
            relocalize_outlier_views(solver, progress)
        cells *= 2


def _worthwhile(solver: GaussNewtonSolver, reports: list[IterationReport]) -> bool:
    """Whether another iteration on the same grid is worthwhile."""
    settings, last = solver.settings.schedule, reports[-1]
    if last.cells == solver.coarsest:
        return last.largest_rotation_change_deg >= settings.converged_rotation_deg
    residuals = [report.normal_residual_deg for report in reports]
    finest = _phase(solver, last.cells) == 2
    remaining = settings.max_remaining_finest if finest else settings.max_remaining
    return residuals[-1] < remaining * residuals[max(0, len(residuals) - 1 - settings.window)]


def _phase(solver: GaussNewtonSolver, cells: int) -> int:
    """0 on the coarsest grid, 2 on the finest, 1 between."""
    return 0 if cells == solver.coarsest else 2 if cells == solver.cells else 1
