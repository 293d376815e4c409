"""Ray distances of captures."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from fixtures.depth_surfaces import (
    SKEWED,
    ball_before_a_wall,
    plane,
)
from fixtures.training import sphere_capture

from pmni.config.integration import (
    BilateralSettings,
    DownsamplingSettings,
    IntegrateSettings,
)
from pmni.data.capture import Capture
from pmni.errors import DivergenceError, InputError
from pmni.geometry.cameras import ray_distance_of_depth
from pmni.integration.integrate import integrate


def test_views_that_cannot_be_integrated_are_named() -> None:
    capture, _ = sphere_capture(views=2)
    capture.normals[1][capture.masks[1]] = np.nan
    with pytest.raises(DivergenceError, match=r"sphere: view 01: .*non-finite"):
        integrate(capture, IntegrateSettings(), threads=2)
    capture.masks[0] = False
    with pytest.raises(InputError, match=r"sphere: view 00: the mask is empty"):
        integrate(capture, IntegrateSettings(), threads=2)


def test_several_at_a_time_change_nothing() -> None:
    capture, _ = sphere_capture(views=3)
    one, several = (integrate(capture, IntegrateSettings(), n) for n in (1, 3))
    np.testing.assert_array_equal(one.ray_distances, several.ray_distances)
    assert one.iterations == several.iterations


def test_a_view_that_still_moves_at_the_last_iteration_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    normals, ball, _, K = ball_before_a_wall()
    capture = Capture(normals[None], np.ones_like(ball)[None], K[None], ("00",), "wall")
    settings = IntegrateSettings(bilateral=BilateralSettings(max_iterations=2))
    assert integrate(capture, settings).iterations == {"00": 2}
    assert "wall: view 00: after 2 iterations the depth still changes" in caplog.text


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.5, 0.3, -0.8)])
def test_planes_are_exact_at_a_lower_resolution(normal: Any) -> None:
    depth, normals = plane(normal, 5.0)
    mask = np.zeros(depth.shape, bool)
    mask[3:45, 5:60] = True
    capture = Capture(
        np.where(mask[..., None], normals, 0)[None], mask[None], SKEWED[None], ("00",), "plane"
    )
    settings = IntegrateSettings(downsampling=DownsamplingSettings(max_pixels=200))
    distances = integrate(capture, settings).ray_distances
    np.testing.assert_array_equal(np.isfinite(distances[0]), mask)
    truth = ray_distance_of_depth(np.where(mask, depth, np.nan), SKEWED)
    ratio = (distances[0] / truth)[mask]
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-6)


def test_distances_of_the_dataset_are_taken_or_missed() -> None:
    capture, truth = sphere_capture(views=2)
    from_dataset = IntegrateSettings(method="dataset")
    with pytest.raises(InputError, match=r"sphere: the dataset has no ray distances"):
        integrate(capture, from_dataset)
    truth[0][capture.masks[0]] *= 3
    given = dataclasses.replace(capture, ray_distances=truth)
    medians = np.nanmedian(truth, axis=(1, 2), keepdims=True)
    np.testing.assert_array_equal(integrate(given, from_dataset).ray_distances, truth / medians)
    truth[1] = 0.0
    with pytest.raises(InputError, match=r"view 01: the dataset has no ray distance inside"):
        integrate(given, from_dataset)
