"""Gauss-Newton steps of the poses on a fixed surface."""

import numpy as np
import pytest
import torch
from fixtures.refinement import observations_of
from fixtures.training import Body, rotated

from pmni.config.refinement import RefineSettings
from pmni.data.capture import Capture
from pmni.geometry.transforms import rotation_angle_deg
from pmni.refinement.pose_step import pose_step


def pose_errors(capture: Capture, c2w: torch.Tensor) -> np.ndarray:
    """Degrees that each camera is turned from where it should be; the surface fixes the frame."""
    assert capture.reference_c2w is not None
    return rotation_angle_deg(np.asarray(c2w)[:, :3, :3], capture.reference_c2w[:, :3, :3])


def test_steps_of_the_poses_alone_converge_to_the_truth(body: Body) -> None:
    capture, surface = body
    assert capture.reference_c2w is not None
    observations = observations_of(capture)
    c2w = torch.tensor(rotated(capture.reference_c2w, 3.0))
    errors = [pose_errors(capture, c2w).mean()]
    for seed in range(5):
        c2w = pose_step(observations, surface, c2w, RefineSettings(seed=seed, pixels=800))
        errors.append(pose_errors(capture, c2w).mean())
    assert errors[0] == pytest.approx(3.0)
    assert errors[1] < 0.25 * errors[0], "most of the way in one step"
    assert errors[-1] < 0.5, "of the size of the draws' noise"
