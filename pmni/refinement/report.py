"""What an outer iteration of refinement did, and whether its result can be accepted."""

import math
from dataclasses import dataclass

import torch

from pmni.config.refinement import AcceptanceSettings
from pmni.errors import ConvergenceError
from pmni.refinement.state import ROTATION, TRANSLATION, Increment, State
from pmni.refinement.weights import Scales


@dataclass(frozen=True)
class IterationReport:
    """The residuals before an outer iteration, and the changes that it made."""

    iteration: int
    """Number of the iteration, from 1."""
    cells: int
    """Cells of the grid along a side."""
    normal_residual_deg: float
    """Median residual of normals, degrees."""
    contour_residual_px: float
    """Robust standard deviation of contours, pixels."""
    worst_view: int
    """Index of the view whose normals fit worst."""
    worst_normal_residual_deg: float
    """Median residual of that view's normals, degrees."""
    hit_fraction: float
    """Fraction of mask pixels whose rays meet the surface."""
    rotation_change_deg: float
    """Mean rotation of the cameras in the step, degrees."""
    largest_rotation_change_deg: float
    """Largest rotation of a camera in the step, degrees."""
    translation_change: float
    """Mean translation of the cameras in the step, normalised units."""
    surface_change: float
    """Mean absolute change of the values at the grid's nodes, normalised units."""
    normal_tilt_bias: float
    """Tilt bias of the normals after the step, radians."""
    focal_factor: float
    """Common factor of the focal lengths after the step."""

    @classmethod
    def of(
        cls, iteration: int, state: State, step: Increment, scales: Scales, hit_fraction: float
    ) -> "IterationReport":
        """The report of an iteration that led to `state` by the whole Gauss-Newton `step`."""
        turns = torch.rad2deg(torch.linalg.vector_norm(step.views[:, ROTATION], dim=-1))
        shifts = torch.linalg.vector_norm(step.views[:, TRANSLATION], dim=-1)
        return cls(
            iteration=iteration,
            cells=state.surface.grid.cells,
            normal_residual_deg=math.degrees(scales.normal),
            contour_residual_px=scales.contour,
            worst_view=int(scales.normal_by_view.argmax()),
            worst_normal_residual_deg=math.degrees(float(scales.normal_by_view.max())),
            hit_fraction=hit_fraction,
            rotation_change_deg=float(turns.mean()),
            largest_rotation_change_deg=float(turns.max()),
            translation_change=float(shifts.mean()),
            surface_change=float(step.surface.abs().mean()),
            normal_tilt_bias=float(state.normal_tilt_bias),
            focal_factor=float(torch.exp(state.log_focal)),
        )

    def has_outlier_view(self, residual_ratio: float) -> bool:
        """Whether the worst view's residual is more than `residual_ratio` times the usual one."""
        return self.worst_normal_residual_deg > residual_ratio * self.normal_residual_deg

    def line(self) -> str:
        """A line for people."""
        return (
            f"{self.iteration:2d}: {self.cells} cells: normals "
            f"{self.normal_residual_deg:.2f} degrees, contours {self.contour_residual_px:.2f} "
            f"pixels off; cameras turned by {self.rotation_change_deg:.3f}"
        )


def check_converged(
    name: str, views: tuple[str, ...], report: IterationReport, settings: AcceptanceSettings
) -> None:
    """Raise ConvergenceError when the views do not fit one surface after the last iteration."""
    most = settings.max_normal_residual_deg
    reasons = {
        f"normals are {report.normal_residual_deg:.0f} degrees off": (
            report.normal_residual_deg > most
        ),
        f"those of view {views[report.worst_view]} are {report.worst_normal_residual_deg:.0f}": (
            report.worst_normal_residual_deg > most
        ),
        f"contours are {report.contour_residual_px:.1f} pixels off": (
            report.contour_residual_px > settings.max_contour_residual_px
        ),
        f"{1 - report.hit_fraction:.0%} of the masks see no surface": (
            report.hit_fraction < settings.min_hit_fraction
        ),
        f"a camera still turns by {report.largest_rotation_change_deg:.1f} degrees": (
            report.largest_rotation_change_deg > settings.max_rotation_change_deg
        ),
    }
    present = [reason for reason, holds in reasons.items() if holds]
    if present:
        raise ConvergenceError(
            f"{name}: the views do not fit one surface ({', '.join(present)}): the initial poses "
            "are too wrong, or a normal map or mask belongs to another view; look at history.csv"
        )
