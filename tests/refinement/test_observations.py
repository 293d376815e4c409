"""What refinement takes from the views: pixels, normals and contour points."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.refinement import observations_of
from fixtures.ring import K, generator, observations, ring_capture

from pmni.errors import InputError
from pmni.refinement.observations import contour_points


def test_contour_points_of_a_pixel_and_a_pair() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    assert sorted(map(tuple, contour_points(mask).tolist())) == [
        (1.5, 1), (2, 0.5), (2, 1.5), (2.5, 1),
    ]  # fmt: skip
    mask[1, 3] = True
    assert len(contour_points(mask)) == 6
    mask[:] = True
    assert len(contour_points(mask)) == 0  # the image's border is no contour


def test_observations_hold_what_the_views_show() -> None:
    m, capture = observations(), ring_capture()
    assert m.names == capture.views
    assert len(m.pixels) == capture.masks.sum()
    for view in range(3):
        rows = slice(int(m.first_pixel[view]), int(m.first_pixel[view + 1]))
        u, v = m.pixels[rows].T
        assert capture.masks[view, v, u].all()
        np.testing.assert_allclose(m.normals[rows], capture.normals[view, v, u], atol=1e-6)
        np.testing.assert_array_equal(m.contour_depth[rows], -m.contour_distance[view, v, u])
        contour = slice(int(m.first_contour_point[view]), int(m.first_contour_point[view + 1]))
        np.testing.assert_array_equal(m.contour[contour], contour_points(capture.masks[view]))
    assert (m.contour_depth > 0).all()


def test_directions_invert_the_projection() -> None:
    m = observations()
    pixels = torch.rand(3, 20, 2, generator=generator()) * 50
    focal = torch.tensor(0.05)
    local = m.directions(pixels, focal)
    torch.testing.assert_close(local.norm(dim=-1), torch.ones(3, 20))
    scaled = torch.tensor(K).float()
    scaled[[0, 1], [0, 1]] *= focal.exp()
    projected = local @ scaled.T
    torch.testing.assert_close(projected[..., :2] / projected[..., 2:], pixels, atol=1e-3, rtol=0)


@pytest.mark.parametrize("draw", ["sample_pixels", "sample_contour"])
def test_draws_come_from_each_view_and_can_be_repeated(draw: str) -> None:
    m = observations()
    first = m.first_pixel if draw == "sample_pixels" else m.first_contour_point
    one, again = (getattr(m, draw)(4000, generator(5)) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, getattr(m, draw)(4000, generator(6)))
    for view in range(3):
        assert one[view].min() >= first[view]
        assert one[view].max() < first[view + 1]
        middle = float((one[view] - first[view]).float().mean() / (first[view + 1] - first[view]))
        assert middle == pytest.approx(0.5, abs=0.02)  # 4 standard errors


def test_excluded_views_and_heldout_pixels() -> None:
    capture = ring_capture()
    four = replace(
        capture, views=("a", "b", "c", "d"),
        **{key: np.concatenate([getattr(capture, key), getattr(capture, key)[:1]])
           for key in ("normals", "masks", "intrinsics", "reference_c2w")},
    )  # fmt: skip
    without = observations_of(four, ("b",))
    assert without.names == ("a", "c", "d")
    assert torch.equal(without.pixels[: int(without.first_pixel[1])],
                       observations().pixels[: int(observations().first_pixel[1])])  # fmt: skip
    part = observations_of(capture, heldout=0.3)
    assert len(part.pixels) < len(observations().pixels)
    assert len(part.contour) < len(observations().contour)


def test_what_cannot_be_refined_is_one_line() -> None:
    capture = ring_capture()
    with pytest.raises(InputError, match=r"ring: exclude_views names 'x'.*views are a, b, c"):
        observations_of(capture, ("x",))
    with pytest.raises(InputError, match="ring: 2 views are too few to refine; give 3"):
        observations_of(capture, ("c",))
    masks = capture.masks.copy()
    masks[1] = False
    masks[1, 5, 5:12] = True
    with pytest.raises(InputError, match="ring: view b shows only 7 pixels of the object"):
        observations_of(replace(capture, masks=masks))
