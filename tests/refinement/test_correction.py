"""Normals and focal lengths corrected as refinement has estimated."""

import numpy as np
import pytest
import torch
from fixtures.refinement import observations_of
from fixtures.training import CPU, Body
from scipy.spatial.transform import Rotation

from pmni.data.heldout import heldout_blocks
from pmni.geometry.poses import Poses
from pmni.refinement.correction import correct_capture


def test_normals_and_focal_lengths_are_corrected_as_refinement_found(body: Body) -> None:
    capture, surface = body
    bias = np.zeros((8, 3, 3))
    bias[2, 2, 0] = 0.1  # view 2: about the viewing axis
    names = capture.views
    assert capture.reference_c2w is not None
    information = {
        "normal_tilt_bias": 0.0,
        "focal_factor": 1.01,
        "normal_bias": dict(zip(names, bias.tolist(), strict=True)),
    }
    refined = Poses(names, capture.reference_c2w, information)
    found = correct_capture(capture, refined, surface, CPU)
    np.testing.assert_allclose(found.normals[1], capture.normals[1], atol=1e-6)
    turn = Rotation.from_rotvec([0, 0, 0.1]).as_matrix()
    np.testing.assert_allclose(found.normals[2], capture.normals[2] @ turn.T, atol=6e-3)
    assert found.intrinsics[0, 0, 0] == pytest.approx(1.01 * capture.intrinsics[0, 0, 0])
    assert found.intrinsics[0, 0, 2] == capture.intrinsics[0, 0, 2]
    plain = Poses(names, capture.reference_c2w)
    assert correct_capture(capture, plain, surface, CPU) is capture


def test_refinement_leaves_the_same_pixels_out(body: Body) -> None:
    capture, _ = body
    blocks = heldout_blocks(capture.masks, 0.3)
    measured = observations_of(capture, heldout=0.3)
    view = torch.bucketize(torch.arange(len(measured.pixels)), measured.first_pixel[1:], right=True)
    column, row = measured.pixels.T
    assert not blocks[view, row, column].any()
    assert len(measured.pixels) == (capture.masks & ~blocks).sum()
    everything = observations_of(capture)
    assert 0 < len(measured.contour) < len(everything.contour)
