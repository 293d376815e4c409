"""`pmni prepare`: what it writes, and when it fails."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fixtures.capture_files import spheres, write_custom, write_supernormal
from fixtures.readers import read_capture

from pmni.cli.main import main
from pmni.data.capture import load_capture


def prepare(folder: Path, layout: str, normals: Any, output: Path, *more: Any) -> Any:
    command = ["prepare", "--name", "ball", "--layout", layout, "--path", str(folder)]
    return main([*command, "--normals", normals, "--output", str(output), *more])


def assert_same(a: Any, b: Any) -> None:
    """All fields of two dataclasses are the same, those of dataclasses in them too."""
    assert type(a) is type(b)
    if isinstance(b, np.ndarray):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b, equal_nan=b.dtype.kind == "f")
    elif dataclasses.is_dataclass(b):
        for field in dataclasses.fields(b):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    else:
        assert a == b


@pytest.mark.parametrize("layout", ["supernormal", "custom"])
def test_what_is_written_is_what_was_read(tmp_path: Path, layout: str) -> None:
    if layout == "supernormal":
        folder, normals = write_supernormal(tmp_path / "in", spheres()), "normal_camera_space_x"
    else:
        folder, normals = write_custom(tmp_path / "in", spheres()), "ps"
    assert prepare(folder, layout, normals, tmp_path / "out") == 0
    written = load_capture(tmp_path / "out")
    read, files = read_capture(layout, folder, "ball", normals)
    assert_same(written, read)
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert set(provenance["inputs"]) == set(files)
    assert provenance["layout"] == layout
    assert provenance["image_size"] == [56, 48]
    cameras = json.loads((tmp_path / "out" / "cameras.json").read_text())
    assert ("reference_camera_to_world" in cameras["views"][written.views[0]]) == (
        layout == "supernormal"
    )


def test_depth_init_scale_multiplies_the_distances(tmp_path: Path) -> None:
    folder = write_supernormal(tmp_path / "in", spheres())
    settings = '{"depth_init_scale": 3}'
    assert prepare(folder, "supernormal", "normal_camera_space_x", tmp_path / "1") == 0
    more = ("--settings", settings)
    assert prepare(folder, "supernormal", "normal_camera_space_x", tmp_path / "3", *more) == 0
    once, thrice = (load_capture(tmp_path / name).ray_distances for name in "13")
    assert np.nanmax(np.abs(thrice / once - 3)) < 1e-6


def test_a_failed_run_leaves_the_last_result(tmp_path: Path) -> None:
    folder = write_custom(tmp_path / "in", spheres())
    assert prepare(folder, "custom", "ps", tmp_path / "out") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (folder / "K.txt").write_text("nothing")
    assert prepare(folder, "custom", "ps", tmp_path / "out") == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_full_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    folder = write_custom(tmp_path / "in", spheres())
    monkeypatch.setattr(np, "savez", full)
    assert prepare(folder, "custom", "ps", tmp_path / "out") == 2
    assert f"{tmp_path / 'out'}: the disk is full" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_upsample_factor_of_the_stage(tmp_path: Path) -> None:
    folder = write_custom(tmp_path / "in", spheres())
    more = ("--settings", '{"upsample_factor": 2}')
    assert prepare(folder, "custom", "ps", tmp_path / "out", *more) == 0
    assert load_capture(tmp_path / "out").masks.shape == (5, 96, 112)


def test_preview_is_an_image(tmp_path: Path) -> None:
    folder = write_custom(tmp_path / "in", spheres(11, 200, 300))
    assert prepare(folder, "custom", "ps", tmp_path / "out") == 0
    image = cv2.imread(str(tmp_path / "out" / "preview.png"))
    assert image.shape[0] > 300
    assert image.shape[1] > 500
    assert (image != 255).any(-1).mean() > 0.1
