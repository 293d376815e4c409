"""The stage `prepare`: what it writes, resizing, the preview."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from fixtures.capture_files import SCALE, render, spheres, write_custom, write_supernormal

from pmni.cli.main import main
from pmni.config.capture import PrepareSettings
from pmni.data.capture import Capture, load_capture
from pmni.data.preview import contact_sheet, normal_colours
from pmni.data.readers import read_capture
from pmni.data.resize import resized

SCALED = PrepareSettings(depth_init_scale=14.6)
"""Undoes the scale of the files' ray distances."""


def prepare(folder, layout, normals, output, *more):
    command = ["prepare", "--name", "ball", "--layout", layout, "--path", str(folder)]
    return main([*command, "--normals", normals, "--output", str(output), *more])


@pytest.mark.parametrize("layout", ["supernormal", "custom"])
def test_what_is_written_is_what_was_read(tmp_path, layout):
    if layout == "supernormal":
        folder, normals = write_supernormal(tmp_path / "in", spheres()), "normal_camera_space_x"
    else:
        folder, normals = write_custom(tmp_path / "in", spheres()), "ps"
    assert prepare(folder, layout, normals, tmp_path / "out") == 0
    written = load_capture(tmp_path / "out")
    read, files = read_capture(layout, folder, "ball", normals)
    for field in dataclasses.fields(Capture):
        a, b = getattr(written, field.name), getattr(read, field.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b, equal_nan=b.dtype.kind == "f")
        else:
            assert a == b
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert set(provenance["inputs"]) == set(files)
    assert provenance["layout"] == layout
    assert provenance["image_size"] == [56, 48]
    cameras = json.loads((tmp_path / "out" / "cameras.json").read_text())
    assert ("reference_camera_to_world" in cameras["views"][written.views[0]]) == (
        layout == "supernormal"
    )


def test_depth_init_scale_multiplies_the_distances(tmp_path):
    folder = write_supernormal(tmp_path / "in", spheres())
    settings = '{"depth_init_scale": 3}'
    assert prepare(folder, "supernormal", "normal_camera_space_x", tmp_path / "1") == 0
    more = ("--settings", settings)
    assert prepare(folder, "supernormal", "normal_camera_space_x", tmp_path / "3", *more) == 0
    once, thrice = (load_capture(tmp_path / name).ray_distances for name in "13")
    assert np.nanmax(np.abs(thrice / once - 3)) < 1e-6


def test_a_failed_run_leaves_the_last_result(tmp_path):
    folder = write_custom(tmp_path / "in", spheres())
    assert prepare(folder, "custom", "ps", tmp_path / "out") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (folder / "K.txt").write_text("nothing")
    assert prepare(folder, "custom", "ps", tmp_path / "out") == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_full_disk(tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    folder = write_custom(tmp_path / "in", spheres())
    monkeypatch.setattr(np, "savez", full)
    assert prepare(folder, "custom", "ps", tmp_path / "out") == 2
    assert f"{tmp_path / 'out'}: the disk is full" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    folder = write_supernormal(tmp_path_factory.mktemp("in") / "ball", spheres())
    return read_capture("supernormal", folder, "ball", "normal_camera_space_x", SCALED)[0]


@pytest.mark.parametrize("factor", [0.5, 2.0, 1.5])
def test_resized_captures_show_the_same_scene(capture, factor):
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


def test_resizing_by_one_changes_nothing(capture):
    assert resized(capture, 1.0) is capture


def test_upsample_factor_of_the_stage(tmp_path):
    folder = write_custom(tmp_path / "in", spheres())
    more = ("--settings", '{"upsample_factor": 2}')
    assert prepare(folder, "custom", "ps", tmp_path / "out", *more) == 0
    assert load_capture(tmp_path / "out").masks.shape == (5, 96, 112)


def test_colours_of_a_normal_by_hand():
    """Towards the camera is blue; up is green; right is red."""
    normals = np.array([[[0, 0, -1.0], [0, -1, 0], [1, 0, 0], [0, 0, 0]]])
    mask = np.array([[True, True, True, False]])
    expected = [[0.5, 0.5, 1, 1], [0.5, 1, 0.5, 1], [1, 0.5, 0.5, 1], [0.5, 0.5, 0.5, 0]]
    assert normal_colours(normals, mask)[0].tolist() == expected


def test_contact_sheet_shows_every_view_once(capture):
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


def test_preview_is_an_image(tmp_path):
    folder = write_custom(tmp_path / "in", spheres(11, 200, 300))
    assert prepare(folder, "custom", "ps", tmp_path / "out") == 0
    image = cv2.imread(str(tmp_path / "out" / "preview.png"))
    assert image.shape[0] > 300
    assert image.shape[1] > 500
    assert (image != 255).any(-1).mean() > 0.1
