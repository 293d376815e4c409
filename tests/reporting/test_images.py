"""Images of normals, masks, errors and distances."""

import base64

import cv2
import numpy as np

from pmni.reporting import images


def test_a_normal_towards_the_camera_is_blue_and_upwards_is_green() -> None:
    normals = np.array([[[0, 0, -1.0], [0, -1.0, 0], [1.0, 0, 0]]])
    image = images.normal_image(normals, np.ones((1, 3), bool))
    assert image[0].tolist() == [[127, 127, 255, 255], [127, 255, 127, 255], [255, 127, 127, 255]]


def test_pixels_outside_the_mask_are_transparent() -> None:
    mask = np.array([[True, False]])
    for image in (images.normal_image(np.ones((1, 2, 3)), mask), images.mask_image(mask)):
        assert image[0, :, 3].tolist() == [255, 0]


def test_errors_are_coloured_from_zero_to_the_largest_and_clipped_there() -> None:
    error = np.array([[0.0, 5.0, 10.0, 99.0, np.nan]])
    image = images.error_image(error, 10.0)
    table = np.array(images.colour_table(images.ERROR_COLOURS)).reshape(-1, 3)
    assert image[0, 3].tolist() == image[0, 2].tolist()
    np.testing.assert_allclose(image[0, [0, 2], :3], table[[0, 255]], atol=1)
    np.testing.assert_allclose(image[0, 1, :3], table[128], atol=2)
    assert image[0, 4, 3] == 0


def test_an_empty_distance_map_is_fully_transparent() -> None:
    assert images.distance_image(np.full((3, 4), np.nan, np.float32)).max() == 0


def test_the_crop_holds_every_mask_and_shrinks_to_the_longest_side() -> None:
    masks = np.zeros((2, 100, 200), bool)
    masks[0, 40:60, 50:60] = True
    masks[1, 45:50, 100:150] = True
    crop = images.crop_to(masks, 50)
    assert crop.top <= 40
    assert crop.bottom >= 60
    assert crop.left <= 50
    assert crop.right >= 150
    assert crop.bottom - crop.top < 40
    small = crop.shrink(images.mask_image(crop.cut(masks[0])))
    assert max(small.shape) == 50
    fine = images.crop_to(masks, 1000)
    assert fine.scale == 1  # nothing is blown up


def test_shrinking_does_not_darken_colours_at_the_edge_of_a_mask() -> None:
    mask = np.zeros((64, 64), bool)
    mask[:, :33] = True
    normals = np.broadcast_to([0.0, 0.0, -1.0], (64, 64, 3))
    crop = images.crop_to(mask[None], 16)
    small = crop.shrink(images.normal_image(crop.cut(normals), crop.cut(mask)))
    partial = (small[..., 3] > 0) & (small[..., 3] < 255)
    assert partial.any()
    np.testing.assert_allclose(small[partial][:, 2], 255, atol=2)


def test_an_image_survives_its_data_uri_with_its_transparency() -> None:
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    normals = np.broadcast_to([0.0, 0.0, -1.0], (32, 32, 3))
    uri = images.data_uri(images.normal_image(normals, mask), 90)
    kind, _, content = uri.partition(",")
    assert kind == "data:image/webp;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_UNCHANGED)
    assert (decoded[..., 3] > 0).tolist() == mask.tolist()
    np.testing.assert_allclose(decoded[16, 16, :3], [255, 127, 127], atol=6)


def test_tiles_go_to_the_sheet_row_by_row() -> None:
    tiles = [np.full((2, 2, 4), value, np.uint8) for value in (1, 2, 3)]
    sheet = images.sprite_sheet(tiles, 2)
    assert sheet[::2, ::2, 0].tolist() == [[1, 2], [3, 0]]
