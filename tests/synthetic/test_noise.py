"""Errors of normals: their size is exact, their look that of photometric stereo."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmni.errors import InputError
from pmni.synthetic.noise import angle_between, photometric_stereo, smooth_field


def ball_view(size: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normals of a ball seen from far away (x right, y up, z towards the camera), mask, views."""
    y, x = np.mgrid[1 : -1 : size * 1j, -1 : 1 : size * 1j] * 1.1
    z = np.sqrt(np.maximum(1 - x**2 - y**2, 0))
    mask = x**2 + y**2 < 1
    normals = np.stack([x, y, z], -1) * mask[..., None]
    return normals, mask, np.broadcast_to([0.0, 0, 1], normals.shape)


def noisy(degrees: float, seed: int = 0, size: int = 128) -> np.ndarray:
    normals, mask, towards = ball_view(size)
    rng = np.random.default_rng(seed)
    return photometric_stereo(normals, mask, towards, np.deg2rad(degrees), rng)


class TestPhotometricStereo:
    @settings(max_examples=20, deadline=None)
    @given(degrees=st.floats(0.01, 44.0), seed=st.integers(0, 1000))
    def test_normals_are_wrong_by_the_mean_angle_and_still_seen(
        self, degrees: Any, seed: Any
    ) -> None:
        normals, mask, _ = ball_view()
        result = noisy(degrees, seed)
        angles = np.rad2deg(angle_between(result[mask], normals[mask]))
        assert angles.mean() == pytest.approx(degrees, rel=1e-4)
        np.testing.assert_allclose(np.linalg.norm(result[mask], axis=-1), 1, atol=1e-12)
        assert result[mask][:, 2].min() > 0.01
        np.testing.assert_array_equal(result[~mask], 0)

    def test_facing_is_towards_each_pixels_own_camera_direction(self) -> None:
        normals, mask, _ = ball_view()
        towards = np.broadcast_to([0.6, 0, 0.8], normals.shape)
        mask = mask & ((normals * towards).sum(-1) > 0)
        result = photometric_stereo(normals, mask, towards, 0.2, np.random.default_rng(0))
        assert (result * towards).sum(-1)[mask].min() > 0.01

    def test_surfaces_are_flattened(self) -> None:
        normals, mask, _ = ball_view()
        slanted = mask & (normals[..., 2] < 0.8)
        tilt = np.mean(
            [noisy(5, seed)[slanted][:, 2] - normals[slanted][:, 2] for seed in range(4)]
        )
        assert tilt > 0.02
        facing = mask & (normals[..., 2] > 0.99)  # nothing to flatten
        assert abs(np.mean([noisy(5, seed)[facing] - normals[facing] for seed in range(8)])) < 0.02

    def test_grazing_normals_are_worse(self) -> None:
        normals, mask, _ = ball_view()
        angles = np.mean([angle_between(noisy(5, seed), normals) for seed in range(8)], axis=0)
        centre, rim = mask & (normals[..., 2] > 0.95), mask & (normals[..., 2] < 0.6)
        assert angles[rim].mean() > 1.5 * angles[centre].mean()

    def test_neighbours_are_wrong_alike(self) -> None:
        error = noisy(5, size=256) - ball_view(256)[0]
        inner = np.s_[96:160, 96:160]
        centred = error[inner] - error[inner].mean((0, 1))
        assert (centred[:, 1:] * centred[:, :-1]).sum() > 0.75 * (centred**2).sum()

    def test_seeds(self) -> None:
        np.testing.assert_array_equal(noisy(5, 1), noisy(5, 1))
        assert np.abs(noisy(5, 1) - noisy(5, 2)).max() > 0.1

    def test_what_cannot_be_reached_is_said(self) -> None:
        with pytest.raises(InputError, match=r"cannot be 100\.0 degrees wrong on average"):
            noisy(100)


class TestSmoothField:
    def test_has_unit_variance_on_average(self) -> None:
        fields = [smooth_field((96, 115), np.random.default_rng(seed)) for seed in range(200)]
        assert np.mean(np.square(fields)) == pytest.approx(1, rel=0.1)
        assert np.mean(fields) == pytest.approx(0, abs=0.05)

    def test_correlation_of_the_formula(self) -> None:
        """A Gaussian smoothed by s has the correlation exp(-d^2 / 4 s^2); four are averaged."""
        apart = np.array([4, 16, 64])
        found = np.zeros(3)
        for seed in range(30):
            field = smooth_field((512, 512), np.random.default_rng(seed))
            for k, d in enumerate(apart):
                found[k] += (field * np.roll(field, d, axis=1)).mean() / 30
        lengths = np.array([2.0, 8.0, 32.0, 120.0])
        expected = np.exp(-(apart[:, None] ** 2) / (4 * lengths**2)).mean(1)
        np.testing.assert_allclose(found, expected, atol=0.08)

    def test_small_images_look_like_large_ones_made_small(self) -> None:
        """The same share of the variance is at less than an eighth of the height."""

        def share(size: int) -> float:
            step = size // 8
            apart = []
            for seed in range(40):
                field = smooth_field((size, size), np.random.default_rng(seed))
                apart.append(((field - np.roll(field, step, axis=0)) ** 2).mean() / 2)
            return float(np.mean(apart))

        assert share(64) == pytest.approx(share(256), rel=0.06)


def test_angles_are_accurate_when_tiny() -> None:
    a = np.array([[1.0, 0, 0]])
    assert angle_between(a, np.array([[1.0, 1e-9, 0]]))[0] == pytest.approx(1e-9)
    assert angle_between(a, -a)[0] == pytest.approx(np.pi)
