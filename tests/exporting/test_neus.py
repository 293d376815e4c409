"""cameras_sphere.npz, by hand."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.export_formats import (
    PIXEL,
    POINT,
    one_camera,
    project_neus,
)

from pmni.exporting.neus import view_numbers, write_cameras_sphere


def test_neus_by_hand(tmp_path: Path) -> None:
    write_cameras_sphere(tmp_path / "cameras_sphere.npz", one_camera())
    with np.load(tmp_path / "cameras_sphere.npz") as archive:
        assert sorted(archive) == [
            "scale_mat_7", "scale_mat_inv_7", "world_mat_7", "world_mat_inv_7",
        ]  # fmt: skip
        expected = [[2, 0, 0, 0.5], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]
        assert archive["scale_mat_7"].tolist() == expected
        for name in ("scale_mat", "world_mat"):
            product = archive[f"{name}_7"] @ archive[f"{name}_inv_7"]
            np.testing.assert_allclose(product, np.eye(4), atol=1e-12)
        u, v, w, _ = archive["world_mat_7"] @ [*POINT, 1]
    np.testing.assert_allclose([u, v, w], [400, 20, 10], atol=1e-12)
    normalised = (POINT - [0.5, 0, 0]) / 2
    pixel = project_neus(tmp_path / "cameras_sphere.npz", 7, normalised)
    np.testing.assert_allclose(pixel, PIXEL)


@pytest.mark.parametrize(
    ("views", "numbers"),
    [
        (("00", "01", "05"), [0, 1, 5]),
        (("view_01", "view_02"), [1, 2]),
        (("front", "back"), [0, 1]),
        (("a1", "b1"), [0, 1]),
    ],
)
def test_numbers_are_those_of_the_names(views: tuple[str, ...], numbers: list[int]) -> None:
    assert view_numbers(views) == numbers
