"""`pmni integrate`."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from fixtures.training import sphere_capture

from pmni.cli.main import main
from pmni.data.capture import save_capture


@pytest.mark.parametrize("method", ["bilateral", "dataset"])
def test_stage_writes_distances_and_a_preview(tmp_path: Path, method: str) -> None:
    capture, truth = sphere_capture(views=3)
    save_capture(
        tmp_path / "capture", dataclasses.replace(capture, ray_distances=truth * np.float32(7))
    )
    command = ["integrate", "--capture", str(tmp_path / "capture"), "--output"]
    settings = ["--settings", json.dumps({"method": method})]
    assert main([*command, str(tmp_path / "out"), *settings]) == 0
    with np.load(tmp_path / "out" / "ray_distance.npz") as archive:
        assert tuple(archive["views"]) == capture.views
        distance = archive["ray_distance"]
    assert distance.dtype == np.float32
    assert np.array_equal(np.isfinite(distance), capture.masks)
    np.testing.assert_allclose(np.nanmedian(distance, axis=(1, 2)), 1.0, rtol=1e-6)
    expected = truth / np.nanmedian(truth, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(distance, expected, rtol=4e-3 if method == "bilateral" else 1e-6)
    assert (tmp_path / "out" / "preview.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["stage"] == "integrate"
