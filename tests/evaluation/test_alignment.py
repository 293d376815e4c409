"""Alignment of cameras."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pmni.evaluation.alignment import align_cameras, align_rotations
from pmni.geometry.cameras import turntable
from pmni.geometry.transforms import Similarity


def cameras_on_circle(count: int, arc: float = 2 * np.pi) -> np.ndarray:
    return turntable(np.arange(count) * arc / count, 0.4, 15.0)


def random_similarity(rng: np.random.Generator) -> Similarity:
    rotation = Rotation.random(random_state=rng).as_matrix()
    return Similarity(float(np.exp(rng.normal())), rotation, rng.normal(size=3) * 10)


def assert_same(a: Similarity, b: Similarity, tolerance: float = 1e-8) -> None:
    assert a.scale == pytest.approx(b.scale, rel=tolerance)
    np.testing.assert_allclose(a.rotation, b.rotation, atol=tolerance)
    np.testing.assert_allclose(a.shift, b.shift, atol=20 * tolerance)


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 12), st.integers(0, 10_000))
def test_cameras_recover_any_similarity(count: int, seed: int) -> None:
    true = random_similarity(np.random.default_rng(seed))
    estimated = true.inverse().move_cameras(cameras_on_circle(count))
    found, method = align_cameras(estimated, cameras_on_circle(count), 0.05)
    assert method == "centres"
    assert_same(found, true)
    assert_same(align_rotations(estimated, cameras_on_circle(count)), true)


@pytest.mark.parametrize("count", [2, 5])
def test_cameras_on_a_line_are_aligned_by_their_rotations(count: int) -> None:
    c2w = cameras_on_circle(count, 0.5)
    c2w[:, :3, 3] = np.linspace([0, -9.0, 1], [3, -9.0, 1], count)
    true = random_similarity(np.random.default_rng(3))
    found, method = align_cameras(true.inverse().move_cameras(c2w), c2w, 0.05)
    assert method == "rotations"
    assert_same(found, true)


def test_one_camera_leaves_the_scale_alone() -> None:
    true = random_similarity(np.random.default_rng(4))
    one = cameras_on_circle(1)
    found, method = align_cameras(true.inverse().move_cameras(one), one, 0.05)
    assert (method, found.scale) == ("rotations", 1.0)
    np.testing.assert_allclose(found.rotation, true.rotation, atol=1e-12)
