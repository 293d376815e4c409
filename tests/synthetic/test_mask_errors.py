"""Errors of segmentation."""

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import label

from pmni.geometry.silhouettes import extrapolate
from pmni.synthetic.mask_errors import perturb_mask

RADIUS = 60.0
SECTORS = 48


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def disc(size: int = 200) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.hypot(x, y) < RADIUS


def displacement(mask: np.ndarray) -> np.ndarray:
    """How far the contour of a disc is moved outwards, in sectors: A = (R + d)^2 angle / 2."""
    y, x = np.indices(mask.shape) - (mask.shape[0] - 1) / 2
    sector = np.floor((np.arctan2(y, x) / (2 * np.pi) % 1) * SECTORS).astype(int)
    areas = [np.bincount(sector[m], minlength=SECTORS) for m in (mask, disc())]
    return np.sqrt(RADIUS**2 * areas[0] / areas[1]) - RADIUS


class TestMasks:
    def test_exact_masks_stay(self) -> None:
        np.testing.assert_array_equal(perturb_mask(disc(), 0.0, 0.0, rng()), disc())

    @pytest.mark.parametrize("pixels", [1.0, 2.0])
    def test_offsets_are_shared_by_the_contour_and_zero_on_average(self, pixels: Any) -> None:
        moved = np.stack(
            [displacement(perturb_mask(disc(), pixels, 0.0, rng(seed))) for seed in range(80)]
        )
        offset = moved.mean(1)
        assert offset.std() == pytest.approx(pixels, rel=0.2)
        assert abs(offset.mean()) < 3 * pixels / np.sqrt(80)
        assert (moved - offset[:, None]).std() < 0.3  # the pixels' grid

    @pytest.mark.parametrize("pixels", [1.0, 2.0])
    def test_ragged_edges_have_the_deviation_asked_for(self, pixels: Any) -> None:
        moved = np.stack(
            [displacement(perturb_mask(disc(), 0.0, pixels, rng(seed))) for seed in range(40)]
        )
        # a sector is 7.9 pixels wide, so its mean is steadier than a point: for a correlation of
        # exp(-d^2 / 4 s^2), s = 4, by a factor of 0.93
        assert moved.std() == pytest.approx(0.93 * pixels, rel=0.1)
        assert abs(moved.mean()) < 0.15 * pixels

    def test_ragged_edges_are_smooth_along_the_contour(self) -> None:
        mask = perturb_mask(disc(), 0.0, 2.0, rng(3))
        moved = displacement(mask)
        assert np.std(np.diff(moved)) < moved.std()  # sqrt(2) of it if neighbours were independent
        assert label(mask)[1] == label(~mask)[1] == 1

    def test_an_empty_mask_stays_empty(self) -> None:
        assert not perturb_mask(np.zeros((20, 30), bool), 2.0, 2.0, rng()).any()

    def test_outside_is_the_nearest_inside(self) -> None:
        image = np.arange(12.0).reshape(3, 4)[..., None] * [1.0, 2.0]
        mask = np.zeros((3, 4), bool)
        mask[1, 1] = mask[1, 2] = True
        found = extrapolate(image, mask)
        np.testing.assert_array_equal(found[..., 0], [[5, 5, 6, 6]] * 3)
        np.testing.assert_array_equal(found[..., 1], 2 * found[..., 0])
