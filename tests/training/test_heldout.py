"""Held-out normals as errors of a surface."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.analytic_sdfs import sphere
from fixtures.training import CPU, Body, poses_of, sphere_capture
from scipy.spatial.transform import Rotation

from pmni.data.capture import Capture
from pmni.data.heldout import BLOCK, heldout_blocks
from pmni.data.views import Views
from pmni.sdf.narrow_band import resample
from pmni.sdf.sdf import SDF
from pmni.training.heldout import HeldoutPixels, heldout_angles, heldout_errors, heldout_pixels


def views_of(capture: Capture, heldout: float) -> Views:
    distances = np.full(capture.masks.shape, np.nan, np.float32)
    return Views.of(capture, distances, heldout=heldout)


def error_of(sdf: SDF, pixels: HeldoutPixels, c2w: torch.Tensor) -> float:
    return float(heldout_angles(sdf, pixels, c2w).double().mean())


def test_the_error_is_zero_for_the_truth_and_the_angle_for_turned_normals() -> None:
    capture, _ = sphere_capture()
    pixels = heldout_pixels(views_of(capture, 0.3), 2)
    assert len(pixels.view) > 100
    truth = sphere(0.5)
    assert error_of(truth, pixels, poses_of(capture)) < 0.05
    assert error_of(resample(truth, 64, CPU, 6), pixels, poses_of(capture)) < 0.5
    turn = Rotation.from_rotvec([0.0, 0.0, np.deg2rad(5)]).as_matrix().astype(np.float32)
    wrong = replace(capture, normals=capture.normals @ turn.T)
    sine = np.linalg.norm(pixels.normal[:, :2].numpy(), axis=-1)
    expected = np.rad2deg(2 * np.arcsin(np.sin(np.deg2rad(2.5)) * sine)).mean()
    found = error_of(truth, heldout_pixels(views_of(wrong, 0.3), 2), poses_of(capture))
    assert found == pytest.approx(expected, abs=0.02)


def test_rays_that_miss_count_as_a_right_angle(body: Body) -> None:
    capture, _ = body
    pixels = heldout_pixels(views_of(capture, 0.3), 2)
    nothing = sphere(0.01, (0.9, 0.9, 0.9))
    assert error_of(nothing, pixels, poses_of(capture)) == pytest.approx(90)


def test_errors_are_summed_block_by_block(body: Body) -> None:
    capture, surface = body
    pixels = heldout_pixels(views_of(capture, 0.3), 2)
    angles = heldout_angles(surface, pixels, poses_of(capture)).double().numpy()
    found = heldout_errors(surface, pixels, poses_of(capture))
    assert found.counts.sum() == len(angles)
    assert found.counts.max() <= BLOCK**2
    assert found.mean == pytest.approx(angles.mean())
    blocks = heldout_blocks(capture.masks, 0.3)[:, ::BLOCK, ::BLOCK]
    assert 0.5 * blocks.sum() < len(found.counts) <= blocks.sum()
    v, y, x = np.argwhere(blocks)[len(found.counts) // 2]
    inside = (pixels.view == int(v)).numpy()
    K = torch.tensor(capture.intrinsics[v], dtype=torch.float32)
    m = pixels.direction / pixels.direction[:, 2:] @ K.T
    u, w, _ = m.round().long().numpy().T
    inside &= (u // BLOCK == x) & (w // BLOCK == y)
    assert inside.any()
    (number,) = np.unique(pixels.block[torch.from_numpy(inside)])
    assert found.sums[number] == pytest.approx(angles[inside].sum())
