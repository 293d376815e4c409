"""nerfstudio's transforms.json, by hand."""

import json
from pathlib import Path

import numpy as np
from fixtures.export_formats import (
    one_camera,
)

from pmni.exporting.nerfstudio import write_transforms


def test_nerfstudio_by_hand(tmp_path: Path) -> None:
    names = (["a/07.png"], ["m/07.png"], ["n/07.png"])
    write_transforms(tmp_path / "transforms.json", one_camera(), *names, "points.ply")
    content = json.loads((tmp_path / "transforms.json").read_text())
    (frame,) = content.pop("frames")
    assert content == {
        "camera_model": "PINHOLE",
        "applied_transform": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
        "ply_file_path": "points.ply",
    }
    # columns: right (+y), up (+z), backwards (+x), position
    np.testing.assert_allclose(
        frame.pop("transform_matrix"),
        [[0, 0, 1, 10], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
        atol=1e-15,
    )
    assert frame == {
        "file_path": "a/07.png", "mask_path": "m/07.png", "normal_file_path": "n/07.png",
        "fl_x": 100, "fl_y": 90, "cx": 30.5, "cy": 20.5, "w": 64, "h": 48,
    }  # fmt: skip
