"""Joint refinement, coarse to fine: which grids, how many steps on each, and when it is enough."""

from collections.abc import Callable, Generator, Iterator

from pmni.refinement.outlier_views import relocalize_outlier_views
from pmni.refinement.report import IterationReport
from pmni.refinement.solver import GaussNewtonSolver


def coarse_to_fine(
    solver: GaussNewtonSolver, progress: Callable[[str], None] = lambda line: None
) -> Iterator[IterationReport]:
    """All outer iterations.

    On the coarsest grid they go on until the cameras have converged, on the others as long as the
    surface comes to fit the normals better: `schedule.patience` times as many as usual at most.
    Between grids, outlier views are relocalised. Where normals do not fit each other on the second
    grid, views are matched, and all begins again with the points on which they agree.
    """
    settings = solver.settings
    cells = solver.coarsest
    while cells <= solver.cells:
        report = yield from _on_grid(solver, cells)
        if _phase(solver, cells) == 1 and solver.stereo is None and _contradictory(solver, report):
            progress(
                f"normals do not fit each other ({report.normal_residual_deg:.1f} degrees): views "
                "are matched by stereo"
            )
            solver.match_views()
            cells = solver.coarsest
            continue
        outlier = report.has_outlier_view(settings.outlier_views.residual_ratio)
        if settings.learn_poses and cells < solver.cells and outlier:
            relocalize_outlier_views(solver, progress)
        cells *= 2


def _on_grid(
    solver: GaussNewtonSolver, cells: int
) -> Generator[IterationReport, None, IterationReport]:
    """The outer iterations on one grid; returns the report of the last full step."""
    settings, phase = solver.settings, _phase(solver, cells)
    usual = settings.iterations[phase]
    full = min(usual, settings.schedule.full_steps) if phase == 2 else usual
    reports: list[IterationReport] = []
    while len(reports) < full or (
        len(reports) < settings.schedule.patience * full and _worthwhile(solver, reports)
    ):
        if phase > 0 and solver.stereo is not None and len(reports) % settings.stereo.interval == 0:
            solver.match_views()
        reports.append(solver.step(cells))
        yield reports[-1]
    for averaged in range(1, usual - full + 1):
        yield solver.step(cells, 1 / (averaged + 1))
    return reports[-1]


def _contradictory(solver: GaussNewtonSolver, report: IterationReport) -> bool:
    """Whether the normals of the views are too far off for a surface that they determine."""
    settings = solver.settings.stereo
    return settings.enabled and report.normal_residual_deg > settings.min_normal_residual_deg


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
