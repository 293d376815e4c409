"""Normal maps and masks on disk."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pmni.errors import InputError
from pmni.io.images import read_distances, read_mask, read_normal_map, write_mask, write_normal_map


@pytest.fixture
def normals() -> Any:
    vectors = np.random.default_rng(0).normal(size=(7, 9, 3))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("suffix", "error"), [(".exr", 0.0), (".npy", 0.0), (".png", 1.0 / 65535)])
def test_normal_maps_come_back_in_the_order_of_their_axes(
    tmp_path: Path, normals: Any, suffix: str, error: Any
) -> None:
    path = tmp_path / f"n{suffix}"
    write_normal_map(path, normals)
    read = read_normal_map(path)
    assert read.dtype == np.float32
    assert np.abs(read - normals).max() <= error * 1.01


def test_half_float_exr(tmp_path: Path, normals: Any) -> None:
    write_normal_map(tmp_path / "n.exr", normals, half=True)
    error = np.abs(read_normal_map(tmp_path / "n.exr") - normals).max()
    assert 0 < error < 5e-4


def test_png_values_by_hand(tmp_path: Path) -> None:
    """A 16-bit pixel (r, g, b) = (65535, 0, 32768) is n = (1, -1, 1/65535)."""
    cv2.imwrite(str(tmp_path / "n.png"), np.array([[[32768, 0, 65535]]], np.uint16))
    assert read_normal_map(tmp_path / "n.png")[0, 0] == pytest.approx([1, -1, 1 / 65535], abs=1e-7)


def test_exr_with_alpha_and_with_a_layer_name(tmp_path: Path, normals: Any) -> None:
    import pyexr

    with_alpha = np.concatenate([normals, np.ones((7, 9, 1), np.float32)], -1)
    pyexr.write(str(tmp_path / "a.exr"), with_alpha)
    assert np.array_equal(read_normal_map(tmp_path / "a.exr"), normals)
    pyexr.write(
        str(tmp_path / "l.exr"), {"normal": normals}, channel_names={"normal": ["X", "Y", "Z"]}
    )
    assert np.array_equal(read_normal_map(tmp_path / "l.exr"), normals)


@pytest.mark.parametrize("make", ["grey", "colour", "ones", "sixteen"])
def test_masks_of_every_kind(tmp_path: Path, make: str) -> None:
    mask = np.random.default_rng(0).random((6, 8)) > 0.5
    image = {
        "grey": mask * np.uint8(255),
        "colour": np.repeat((mask * np.uint8(255))[..., None], 3, -1),
        "ones": mask.astype(np.uint8),
        "sixteen": mask * np.uint16(65535),
    }[make]
    cv2.imwrite(str(tmp_path / "m.png"), image)
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)


def test_mask_round_trip_and_antialiased_edge(tmp_path: Path) -> None:
    mask = np.array([[True, False], [False, True]])
    write_mask(tmp_path / "m.png", mask)
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)
    cv2.imwrite(str(tmp_path / "g.png"), np.array([[0, 127, 128, 255]], np.uint8))
    assert read_mask(tmp_path / "g.png").tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("suffix", [".exr", ".png", ".npy"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files_are_named(tmp_path: Path, suffix: str, kept: Any) -> None:
    normals = np.random.default_rng(0).normal(size=(64, 48, 3)).clip(-1, 1)
    path = tmp_path / f"03{suffix}"
    write_normal_map(path, normals)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(InputError, match=rf"03\{suffix}: "):
        read_normal_map(path)


def test_flipped_bit_in_a_png_is_found(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.png", np.ones((8, 8), bool))
    content = bytearray((tmp_path / "m.png").read_bytes())
    content[-20] ^= 4
    (tmp_path / "m.png").write_bytes(content)
    with pytest.raises(InputError, match=r"m\.png: this PNG is damaged"):
        read_mask(tmp_path / "m.png")


def test_files_of_the_wrong_kind(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "8bit.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"8bit\.png: is an 8-bit PNG"):
        read_normal_map(tmp_path / "8bit.png")
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((4, 4), np.uint16))
    with pytest.raises(InputError, match=r"grey\.png: has one channel"):
        read_normal_map(tmp_path / "grey.png")
    np.save(tmp_path / "int.npy", np.zeros((4, 4, 3), int))
    with pytest.raises(InputError, match=r"int\.npy: must hold an array of floating-point"):
        read_normal_map(tmp_path / "int.npy")
    np.save(tmp_path / "flat.npy", np.zeros((4, 4)))
    with pytest.raises(InputError, match=r"flat\.npy: has shape \(4, 4\)"):
        read_normal_map(tmp_path / "flat.npy")
    with pytest.raises(InputError, match=r"gone\.exr: no such file"):
        read_normal_map(tmp_path / "gone.exr")
    with pytest.raises(InputError, match=r"n\.jpg: not a normal map"):
        read_normal_map(tmp_path / "n.jpg")
    with pytest.raises(InputError, match=r"n\.jpg: not a normal map"):
        write_normal_map(tmp_path / "n.jpg", np.zeros((4, 4, 3)))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text\.png: not a PNG"):
        read_mask(tmp_path / "text.png")
    np.save(tmp_path / "cube.npy", np.zeros((4, 4, 3)))
    with pytest.raises(InputError, match=r"cube\.npy: has shape"):
        read_distances(tmp_path / "cube.npy")
