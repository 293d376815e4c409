"""Patches show the pixels of the views, and no excluded ones."""

import torch
from fixtures.training import Body, K, sphere_capture

from pmni.data.views import Views
from pmni.training.patches import PatchSampler, patch_rays
from pmni.training.rng import StepRng


def test_patches_show_their_pixels_and_rays_meet_them() -> None:
    capture, distances = sphere_capture()
    views = Views.of(capture, distances)
    sampler = PatchSampler(views, patch=3, margin=2, background=0.25)
    batch = sampler.draw(64, StepRng(0, torch.tensor(0)))
    assert batch.pixels.shape == (64, 3, 3, 2)
    for index in (0, 40, 63):
        column, row = batch.pixels[index, 0, 2].tolist()
        view = int(batch.view[index])
        assert batch.mask[index, 0, 2] == capture.masks[view, row, column]
        assert torch.equal(
            batch.normal[index, 0, 2], torch.tensor(capture.normals[view, row, column])
        )
    centre = batch.mask[:, 1, 1]
    assert centre[:48].all(), "three quarters are centred on the object"
    assert not centre[48:].any(), "one quarter beside it"
    rays = patch_rays(batch, torch.tensor(capture.reference_c2w).float())
    uv = rays.m @ torch.tensor(K).float().T
    torch.testing.assert_close(uv[..., :2], batch.pixels.float(), atol=1e-3, rtol=0)


def test_a_draw_depends_on_its_seed_only() -> None:
    sampler = PatchSampler(Views.of(*sphere_capture()), 3, 2, 0.25)
    one = sampler.draw(16, StepRng(7, torch.tensor(0)))
    again = sampler.draw(16, StepRng(7, torch.tensor(0)))
    other = sampler.draw(16, StepRng(8, torch.tensor(0)))
    assert torch.equal(one.pixels, again.pixels)
    assert not torch.equal(one.pixels, other.pixels)


def test_held_out_pixels_are_never_drawn(body: Body) -> None:
    capture, _ = body
    views = Views.of(capture, heldout=0.3)
    sampler = PatchSampler(views, 3, 3, 0.25)
    batch = sampler.draw(5000, StepRng(0, torch.tensor(0)))
    column, row = batch.pixels.unbind(-1)
    assert not views.excluded_pixels[batch.view[:, None, None], row, column].any()
    drawn = torch.zeros_like(views.excluded_pixels)
    drawn[batch.view[:, None, None], row, column] = True
    assert drawn.sum() > 0.5 * (~views.excluded_pixels & (views.masks > 0)).sum(), "others are"
