"""Robust weights of residuals, and their scales."""

import numpy as np
import torch

from pmni.config.refinement import (
    ResidualSettings,
    RobustWeightSettings,
)
from pmni.refinement.residuals import Residuals
from pmni.refinement.weights import Scales, eroded_boundary, lower_medians, weight_normals

WEIGHTS = RobustWeightSettings()


def test_the_eroded_boundary() -> None:
    """As wide as a mask is too large, wider where contours are jittered, 5 pixels at most."""
    offsets = torch.tensor([-1.0, 0.0, 2.0, 9.0])
    for contour, jitter in ((0.2, 0.0), (WEIGHTS.smooth_contour_px + 0.5, 1.0)):
        scales = Scales(0.1, contour, torch.full((4,), 0.1))
        expected = torch.tensor([jitter, jitter, 2 + jitter, 5])
        torch.testing.assert_close(eroded_boundary(offsets, scales, WEIGHTS), expected)


def test_normals_of_other_parts_count_by_their_direction_and_in_the_end_not_at_all() -> None:
    value = torch.tensor([[0.1, 0, 0], [0, 0.4, 0], [0, 0, 1.6], [0, 0, 0.1]])
    rows, derivatives = torch.zeros(4, 8, dtype=torch.long), torch.zeros(4, 3, 26)
    valid = torch.tensor([1.0, 1, 1, 0])
    normals = Residuals(value, rows, *derivatives.split([8, 16, 2], -1), valid)
    scales = Scales(0.1, 0.2, torch.full((1,), 0.1))
    huber = torch.tensor([1, 0.3 / 0.4, 0.3 / 1.6, 0])
    fitting = torch.exp(-((torch.tensor([0.1, 0.4, 1.6, 0.1]) / 0.4) ** 2))
    for converged, expected in ((False, huber), (True, huber * fitting)):
        weight = (
            weight_normals(normals, scales, converged, WEIGHTS, ResidualSettings()).root_weight ** 2
        )
        torch.testing.assert_close(weight, expected)
    assert weight[2] < 1e-6


def test_medians_are_those_of_the_numbers_in_each_row() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.integers(0, 9, (50, 31)).astype(np.float32))
    values[torch.from_numpy(rng.uniform(size=values.shape) < 0.4)] = torch.nan
    values[3] = torch.nan
    expected = values.nanmedian(dim=1).values
    torch.testing.assert_close(lower_medians(values), expected, rtol=0, atol=0, equal_nan=True)
