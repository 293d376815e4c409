"""Captures at another resolution."""

from typing import Any

import numpy as np
import pytest
from fixtures.capture_files import SCALE, render, spheres, write_supernormal
from fixtures.readers import read_capture

from pmni.config.capture import PrepareSettings
from pmni.data.resize import resized

SCALED = PrepareSettings(depth_init_scale=14.6)
"""Undoes the scale of the files' ray distances."""


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_supernormal(tmp_path_factory.mktemp("in") / "ball", spheres())
    return read_capture("supernormal", folder, "ball", "normal_camera_space_x", SCALED)[0]


@pytest.mark.parametrize("factor", [0.5, 2.0, 1.5])
def test_resized_captures_show_the_same_scene(capture: Any, factor: Any) -> None:
    """Against the scene rendered at that resolution."""
    small = resized(capture, factor)
    height, width = round(48 * factor), round(56 * factor)
    assert small.masks.shape == (5, height, width)
    # u' = (u + 1/2) s - 1/2, by hand for the principal point (29.5, 21.75), focal length 288
    K = small.intrinsics[0]
    assert K[0, 0] == pytest.approx(288 * factor)
    assert K[0, 2] == pytest.approx(30.0 * factor - 0.5)
    assert K[1, 2] == pytest.approx(22.25 * factor - 0.5)
    rendered = [render(K, c2w, height, width) for c2w in spheres().c2w]
    masks, normals, distances = (np.stack(maps) for maps in zip(*rendered, strict=True))
    assert (small.masks ^ masks).sum() < 0.04 * masks.sum()
    assert np.abs(np.argwhere(small.masks).mean(0) - np.argwhere(masks).mean(0)).max() < 0.05
    assert np.abs(np.linalg.norm(small.normals[small.masks], axis=-1) - 1).max() < 1e-6
    assert not small.normals[~small.masks].any()
    assert np.array_equal(np.isfinite(small.ray_distances), small.masks)
    inside = small.masks & masks & (normals[..., 2] < -0.6)
    for read in (small.normals, small.ground_truth_normals):
        cosine = (read * normals).sum(-1)[inside]
        assert np.median(np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))) < 0.6
    assert np.median(np.abs(small.ray_distances - distances / SCALE)[inside]) < 2e-3


def test_resizing_by_one_changes_nothing(capture: Any) -> None:
    assert resized(capture, 1.0) is capture
