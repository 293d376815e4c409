"""The contact sheet of normal maps."""

from typing import Any

import numpy as np
import pytest
from fixtures.capture_files import spheres, write_supernormal
from fixtures.readers import read_capture

from pmni.config.capture import PrepareSettings
from pmni.data.preview import contact_sheet, normal_colours

SCALED = PrepareSettings(depth_init_scale=14.6)
"""Undoes the scale of the files' ray distances."""


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_supernormal(tmp_path_factory.mktemp("in") / "ball", spheres())
    return read_capture("supernormal", folder, "ball", "normal_camera_space_x", SCALED)[0]


def test_colours_of_a_normal_by_hand() -> None:
    """Towards the camera is blue; up is green; right is red."""
    normals = np.array([[[0, 0, -1.0], [0, -1, 0], [1, 0, 0], [0, 0, 0]]])
    mask = np.array([[True, True, True, False]])
    expected = [[0.5, 0.5, 1, 1], [0.5, 1, 0.5, 1], [1, 0.5, 0.5, 1], [0.5, 0.5, 0.5, 0]]
    assert normal_colours(normals, mask)[0].tolist() == expected


def test_contact_sheet_shows_every_view_once(capture: Any) -> None:
    sheet, captions = contact_sheet(capture)
    assert len(captions) == len(set(captions)) == 5
    assert sheet.min() >= 0
    assert sheet.max() <= 1
    coloured = (sheet < 0.999).any(-1)
    for x, y in captions:  # the object is above its caption
        assert coloured[max(0, int(y) - 200) : int(y), int(x) - 30 : int(x) + 30].any()
    # as many coloured pixels as mask pixels, enlarged by a whole factor
    share = coloured.sum() / capture.masks.sum()
    assert np.sqrt(share) == pytest.approx(round(np.sqrt(share)), abs=0.02)
