"""Integration at a lower resolution."""

import dataclasses

import numpy as np
from fixtures.training import sphere_capture

from pmni.config.integration import (
    DownsamplingSettings,
)
from pmni.integration.resample import downsample, upsample_depth


def test_captures_are_downsampled_by_whole_numbers_and_only_if_they_are_large() -> None:
    capture, _ = sphere_capture(views=1)
    pixels = capture.masks.sum()
    assert downsample(capture, int(pixels) + 1) is capture
    small = downsample(capture, int(pixels) - 1)
    assert small.masks.shape[1:] == tuple(side // 2 for side in capture.masks.shape[1:])


def test_a_depth_jump_stays_sharp_at_a_lower_resolution() -> None:
    capture, _ = sphere_capture(views=1)
    facing = np.zeros_like(capture.normals)
    facing[..., 2] = -1
    whole = dataclasses.replace(capture, normals=facing, masks=np.ones_like(capture.masks))
    small = downsample(whole, whole.masks.size // 4)
    depth = np.ones(small.masks.shape[1:])
    depth[:, depth.shape[1] // 2 :] = 2.0
    np.testing.assert_allclose(
        np.unique(upsample_depth(depth, small, whole, DownsamplingSettings()).round(9)), [1.0, 2.0]
    )


def test_what_is_far_from_all_downsampled_pixels_stays_unknown() -> None:
    capture, _ = sphere_capture(views=1)
    small = downsample(capture, int(capture.masks.sum()) // 4)
    mask = capture.masks.copy()
    mask[0, 0, 0] = True
    speck = dataclasses.replace(capture, masks=mask)
    depth = np.where(small.masks[0], 2.0, np.nan)
    found = upsample_depth(depth, small, speck, DownsamplingSettings())
    assert np.isnan(found[0, 0])
    assert np.isfinite(found[capture.masks[0]]).all()
