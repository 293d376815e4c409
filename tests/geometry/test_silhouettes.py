"""Distances from the contours of masks."""

import numpy as np

from pmni.geometry.silhouettes import nearest_across_contour, signed_distances


def test_contour_lies_halfway_between_pixels() -> None:
    mask = np.zeros((5, 7), bool)
    mask[:, 3:] = True
    assert signed_distances(mask[None])[0, 2].tolist() == [2.5, 1.5, 0.5, -0.5, -1.5, -2.5, -3.5]


def test_distances_are_from_contours_not_from_borders() -> None:
    mask = np.zeros((1, 3, 6), bool)
    mask[0, :2, 2:4] = True
    sizes = np.array([[2, 4]])
    expected = [1.5, 0.5, -0.5, -1.5, -1.5, -1.5]  # the last two as at the border
    assert signed_distances(mask, sizes)[0].tolist() == [expected] * 3
    assert signed_distances(mask)[0, 0].tolist() == [1.5, 0.5, -0.5, -0.5, 0.5, 1.5]
    assert (signed_distances(np.ones((1, 2, 3), bool)) < -3).all()


def test_nearest_pixels_are_on_the_other_side() -> None:
    row, column = nearest_across_contour(np.array([[True, True, False, False]]))
    assert row.tolist() == [[0, 0, 0, 0]]
    assert column.tolist() == [[2, 2, 1, 1]]
