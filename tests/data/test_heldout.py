"""Held-out views and blocks of pixels."""

import numpy as np
import pytest
import torch
from fixtures.training import Body, sphere_capture

from pmni.data.heldout import BLOCK, heldout_blocks
from pmni.data.views import Views
from pmni.errors import InputError


def test_held_out_views_are_left_out() -> None:
    views = Views.of(*sphere_capture(), exclude=("01", "04"))
    assert views.names == ("00", "02", "03", "05")
    with pytest.raises(InputError, match="exclude_views names '99'"):
        Views.of(*sphere_capture(), exclude=("99",))


def test_blocks_are_whole_seen_and_the_right_number() -> None:
    masks = np.zeros((3, 50, 70), bool)
    masks[:, 9:41, 17:60] = True
    blocks = heldout_blocks(masks, 0.1)
    assert np.array_equal(blocks, heldout_blocks(masks.copy(), 0.1)), "always the same"
    assert not np.array_equal(blocks[0], blocks[1]), "views differ"
    starts = blocks[:, ::BLOCK, ::BLOCK]
    assert np.array_equal(blocks, starts.repeat(BLOCK, 1).repeat(BLOCK, 2)[:, :50, :70])
    assert starts.sum((1, 2)).tolist() == [3, 3, 3], "a tenth of 5 x 6 blocks"
    assert (masks & blocks).any((1, 2)).all()
    assert heldout_blocks(masks, 0.001).any((1, 2)).all(), "at least one"
    assert not heldout_blocks(masks, 0.0).any()


def test_a_view_is_held_out_alike_whichever_others_are_excluded(body: Body) -> None:
    capture, _ = body
    distances = np.zeros(capture.masks.shape, np.float32)
    all_views = Views.of(capture, distances, heldout=0.2)
    some = Views.of(capture, distances, ("01",), 0.2)
    assert torch.equal(some.excluded_pixels[1], all_views.excluded_pixels[2])
