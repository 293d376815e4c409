"""Results that are refused, and why."""

from dataclasses import replace
from typing import Any

import pytest
from fixtures.refinement import blob, cameras, refined, wrong_poses

from pmni.config.refinement import (
    AcceptanceSettings,
)
from pmni.data.capture import Capture
from pmni.errors import ConvergenceError
from pmni.refinement.report import IterationReport, check_converged

GOOD = IterationReport(
    iteration=22, cells=128, normal_residual_deg=5.0, contour_residual_px=0.3,
    worst_view=3, worst_normal_residual_deg=7.0, hit_fraction=0.99,
    rotation_change_deg=0.02, largest_rotation_change_deg=0.05, translation_change=1e-3,
    surface_change=1e-4, normal_tilt_bias=0.03, focal_factor=1.0,
)  # fmt: skip


def swapped() -> Capture:
    """The normals and masks of views 2 and 7 are each other's."""
    capture, _ = blob()
    order = [0, 1, 7, 3, 4, 5, 6, 2, 8, 9]
    return replace(capture, normals=capture.normals[order], masks=capture.masks[order])


def test_views_that_fit_no_surface_are_refused() -> None:
    _, reports = refined(swapped(), wrong_poses(), pixels=500, cells=32, iterations=[4, 1, 2])
    with pytest.raises(ConvergenceError, match=r"blob: the views do not fit one surface \(.*\)"):
        check_converged("blob", blob()[0].views, reports[-1], AcceptanceSettings())


def test_the_view_that_fits_worst_is_told() -> None:
    _, reports = refined(swapped(), cameras(), learn_poses=False, pixels=500, iterations=[4, 1, 2])
    assert reports[-1].worst_view in {2, 7}
    assert reports[-1].has_outlier_view(2.0)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"normal_residual_deg": 31.0}, "normals are 31 degrees off"),
        ({"worst_normal_residual_deg": 40.4}, "those of view 03 are 40"),
        ({"contour_residual_px": 7.25}, "contours are 7.2 pixels off"),
        ({"hit_fraction": 0.5}, "50% of the masks see no surface"),
        ({"largest_rotation_change_deg": 2.0}, "a camera still turns by 2.0 degrees"),
    ],
)
def test_reasons_of_a_refusal(wrong: dict[str, Any], reason: str) -> None:
    check_converged("blob", blob()[0].views, GOOD, AcceptanceSettings())
    with pytest.raises(ConvergenceError, match=reason):
        check_converged("blob", blob()[0].views, replace(GOOD, **wrong), AcceptanceSettings())
