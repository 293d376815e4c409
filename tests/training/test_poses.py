"""Learned poses: perturbation, gauge, exponential map, scales."""

import math

import numpy as np
import pypose
import pytest
import torch

from pmni.geometry.cameras import turntable
from pmni.training.poses import LearnedPoses, ViewScales


def test_poses_start_where_they_should_and_turn_about_the_object() -> None:
    start = torch.tensor(turntable(np.arange(3) * 2.0, 0.3, 15.0), dtype=torch.float64)
    poses = LearnedPoses(start, "first", "adam")
    torch.testing.assert_close(poses(), start)
    with torch.no_grad():
        poses.parameters_[1, 1] = 0.1  # about camera 1's own y axis
    moved = poses()
    torch.testing.assert_close(moved[0], start[0])
    # A turn about the origin keeps the origin where camera 1 sees it.
    seen = -(moved[1, :3, :3].T @ moved[1, :3, 3])
    torch.testing.assert_close(seen, -(start[1, :3, :3].T @ start[1, :3, 3]), atol=1e-9, rtol=0)
    turned = moved[1, :3, :3] @ start[1, :3, :3].T
    axis = start[1, :3, 1] * 0.1
    cross = torch.linalg.matrix_exp(
        torch.tensor(
            [[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]],
            dtype=torch.float64,
        )
    )
    torch.testing.assert_close(turned, cross)


def test_depth_moves_in_units_of_the_distance() -> None:
    start = torch.tensor(turntable(np.zeros(2), 0.0, 15.0), dtype=torch.float64)
    poses = LearnedPoses(start, "first", "adam")
    with torch.no_grad():
        poses.parameters_[1, 5] = 0.01
    assert torch.linalg.vector_norm(poses()[1, :3, 3]).item() == pytest.approx(15 * 0.99)


def test_mean_gauge_ignores_a_common_world_motion() -> None:
    start = torch.tensor(turntable(np.arange(4) * 1.5, 0.3, 15.0), dtype=torch.float64)
    poses = LearnedPoses(start, "mean", "adam")
    with torch.no_grad():
        world = torch.tensor([0.0, 0.0, 0.2], dtype=torch.float64)
        poses.parameters_[:, :3] = start[:, :3, :3].transpose(1, 2) @ world
    torch.testing.assert_close(poses(), start)


def test_fixed_poses_take_no_gradient() -> None:
    poses = LearnedPoses(torch.eye(4).expand(2, 4, 4), "mean", "fixed")
    assert not any(parameter.requires_grad for parameter in poses.parameters())


def test_last_scale_is_one() -> None:
    scales = ViewScales(3)
    scales.logarithms.data[:] = torch.tensor([0.0, math.log(2.0)])
    assert scales().tolist() == pytest.approx([1.0, 2.0, 1.0])


def test_the_exponential_is_pyposes_and_its_derivative_is_smooth_at_zero() -> None:
    start = torch.eye(4, dtype=torch.float64).repeat(4, 1, 1)
    poses = LearnedPoses(start, "first", "adam")
    xi = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    xi[0] *= 1e-9
    xi[1, :3] *= 3.1 / xi[1, :3].norm()
    torch.testing.assert_close(
        poses._exponential(xi), pypose.se3(xi.roll(3, dims=1)).Exp().matrix()
    )
    zero = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(poses._exponential, (zero,))
