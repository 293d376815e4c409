"""The unknowns, and how an increment changes them."""

import math

import numpy as np
import pytest
import torch
from fixtures.analytic_sdfs import sphere
from fixtures.ring import (
    cameras,
    generator,
    on_fine_grid,
)
from torch.nn.functional import normalize

from pmni.config.refinement import NarrowBandSettings
from pmni.refinement.state import (
    BIAS,
    OFFSET,
    ROTATION,
    TRANSLATION,
    Increment,
    State,
)


def test_an_increment_turns_cameras_about_the_origin() -> None:
    state = State.start(on_fine_grid(sphere(0.6), 32), torch.from_numpy(cameras()))
    views = torch.zeros(3, 16)
    views[0, ROTATION] = torch.tensor([0.0, 0.0, math.pi / 2])
    views[1, TRANSLATION] = torch.tensor([0.1, 0.2, 0.3])
    views[2, OFFSET] = 0.01
    views[2, BIAS] = torch.arange(9) * 1e-3
    nothing = torch.zeros(len(state.surface.grid))
    step = Increment(nothing, views, torch.tensor([0.03, -0.02]))
    after = state.retract(step, 3.0, NarrowBandSettings())
    x, y, z = cameras()[0, :3, 3]
    np.testing.assert_allclose(after.centres[0], [-y, x, z], atol=1e-6)
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    np.testing.assert_allclose(after.rotations[0], quarter @ cameras()[0, :3, :3], atol=1e-6)
    np.testing.assert_allclose(after.c2w()[1, :3, 3], cameras()[1, :3, 3] + [0.1, 0.2, 0.3], 1e-6)
    assert float(after.offsets[2]) == pytest.approx(0.01)
    assert after.bias[2, 1].tolist() == pytest.approx([0.003, 0.004, 0.005])
    assert (float(after.normal_tilt_bias), float(after.log_focal)) == pytest.approx((0.03, -0.02))
    identity = after.rotations.transpose(1, 2) @ after.rotations
    assert (identity - torch.eye(3)).abs().max() < 1e-12


def test_the_surface_moves_at_most_three_cells_in_a_step() -> None:
    state = State.start(on_fine_grid(sphere(0.6), 64), torch.from_numpy(cameras()))
    far = Increment(torch.full((len(state.surface.grid),), -1.0), torch.zeros(3, 16),
                    torch.zeros(2))  # fmt: skip
    after = state.retract(far, 3.0, NarrowBandSettings())
    h = state.surface.grid.spacing
    x = normalize(torch.randn(500, 3, generator=generator()), dim=-1) * (0.6 + 3 * h)
    assert after.surface(x).abs().max() < 0.2 * h
