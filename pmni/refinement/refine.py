"""Joint refinement of a capture: from images and initial poses to poses and a surface."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pmni.config.refinement import RefineSettings
from pmni.data.capture import Capture
from pmni.data.views import Views
from pmni.geometry.poses import Poses
from pmni.io.tables import Row
from pmni.refinement.completion import complete_surface
from pmni.refinement.covariance import pose_covariances
from pmni.refinement.initial_surface import initial_hull
from pmni.refinement.observations import Observations
from pmni.refinement.report import IterationReport, check_converged
from pmni.refinement.schedule import coarse_to_fine
from pmni.refinement.solver import GaussNewtonSolver
from pmni.sdf.narrow_band import NarrowBandSDF

ROW_DIGITS = 6
"""Decimals of numbers in the history."""
SECONDS_DIGITS = 3
"""Decimals of seconds in the history."""


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Refinement:
    """Refined poses and surface of a capture."""

    poses: Poses
    """The poses, with their covariances and the systematic errors of the normals in
    `information`."""
    surface: NarrowBandSDF
    """The surface, completed where no camera observes it."""
    history: list[Row]
    """A row of numbers for each outer iteration: `IterationReport` and the seconds so far."""


@torch.no_grad()
def refine(
    capture: Capture,
    initial: Poses,
    settings: RefineSettings | None = None,
    device: torch.device = CPU,
    progress: Callable[[str], None] | None = None,
) -> Refinement:
    """Refine poses and a surface together by Gauss-Newton, coarse to fine (docs/refinement.md).

    Args:
        initial: poses of all views that are not excluded.
        progress: called with lines for people.

    Raises InputError for views or poses that are missing, LostSurfaceError when no ray meets the
    surface, and ConvergenceError when the views do not fit one surface.
    """
    settings = settings or RefineSettings()
    write = progress or (lambda line: None)
    views = Views.of(
        capture, exclude=settings.exclude_views, heldout=settings.heldout, device=device
    )
    observations = Observations.of(views, settings.min_view_pixels)
    c2w = torch.as_tensor(initial.select(observations.names), device=device)
    start = time.perf_counter()
    hull = initial_hull(observations, c2w, settings.visual_hull)
    solver = GaussNewtonSolver(observations, hull, c2w, settings)
    history: list[Row] = []
    for report in coarse_to_fine(solver, write):
        history.append(_row(report, time.perf_counter() - start))
        write(report.line())
    check_converged(capture.name, observations.names, report, settings.acceptance)
    if report.has_outlier_view(settings.outlier_views.residual_ratio):
        write(
            f"{capture.name}: view {observations.names[report.worst_view]}: its normals are "
            f"{report.worst_normal_residual_deg:.1f} degrees off, those of all views "
            f"{report.normal_residual_deg:.1f}: do its files belong to it?"
        )
    surface = complete_surface(solver)
    return Refinement(refined_poses(solver), surface, history)


def refined_poses(solver: GaussNewtonSolver) -> Poses:
    """The solver's poses with their covariances and the estimated errors of normals."""
    state, names = solver.state, solver.observations.names
    information = {
        "method": "refine",
        "learned": solver.settings.learn_poses,
        "normal_tilt_bias": float(state.normal_tilt_bias),
        "focal_factor": float(torch.exp(state.log_focal)),
        "normal_bias": dict(zip(names, state.bias.tolist(), strict=True)),
    }
    if solver.settings.learn_poses:
        covariances = pose_covariances(solver)
        information["covariance"] = {
            name: matrix.tolist() for name, matrix in zip(names, covariances, strict=True)
        }
    return Poses(names, state.c2w().cpu().numpy(), information)


def _row(report: IterationReport, seconds: float) -> Row:
    row = dataclasses.asdict(report) | {"seconds": round(seconds, SECONDS_DIGITS)}
    return {name: round(value, ROW_DIGITS) for name, value in row.items()}
