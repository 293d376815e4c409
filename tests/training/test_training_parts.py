"""Schedules, poses, patches, losses and the warm start, against answers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from fixtures.training import TINY, K, changed, sphere_capture

from pmni.config.training import FieldSettings, LossWeights, PhaseSettings, TrainSettings
from pmni.data.views import Views
from pmni.errors import InputError
from pmni.geometry.cameras import turntable
from pmni.sdf.grid import GridSDF, grid_nodes
from pmni.sdf.network import NeuralSDF
from pmni.sdf.visual_hull import mask_distances, visual_hulls
from pmni.training import schedule
from pmni.training.losses.base import back_project, closed_form_scales
from pmni.training.losses.chamfer import chamfer_loss
from pmni.training.losses.consistency import consistency_loss
from pmni.training.losses.depth import depth_loss
from pmni.training.losses.depth_robust import group_medians, robust_depth_loss
from pmni.training.losses.eikonal import eikonal_loss
from pmni.training.losses.mask import mask_loss
from pmni.training.losses.normal import normal_loss
from pmni.training.losses.surface import surface_loss
from pmni.training.patches import PatchSampler, patch_rays
from pmni.training.poses import LearnedPoses, ViewScales
from pmni.training.rng import StepRng
from pmni.training.warm_start import fit_network

CPU = torch.device("cpu")


# ------------------------------------------------------------------------------------ schedules
def test_rate_warms_up_then_follows_a_cosine():
    settings = TrainSettings(steps=1000, optimizer={"warm_up_steps": 100, "final_fraction": 0.05})
    assert schedule.rate_factor(0, settings) == pytest.approx(0.01)
    assert schedule.rate_factor(99, settings) == pytest.approx(1.0)
    assert schedule.rate_factor(550, settings) == pytest.approx((1 + 0.05) / 2)
    assert schedule.rate_factor(1000, settings) == pytest.approx(0.05)


def test_phases_end_where_they_say():
    phases = (
        PhaseSettings(until=0.25, weights=LossWeights(mask=3)),
        PhaseSettings(until=1.0, weights=LossWeights(mask=5)),
    )
    settings = TrainSettings(steps=8, phases=phases)
    assert [schedule.phase_at(step, settings).weights.mask for step in range(8)] == [3] * 2 + [
        5
    ] * 6


@pytest.mark.parametrize("ends", [(0.5,), (0.5, 0.5, 1.0), (1.0, 0.5)])
def test_phases_must_ascend_to_one(ends):
    phases = [{"until": end} for end in ends]
    with pytest.raises(InputError, match=r"here: 'phases'|here: .*ascend"):
        TrainSettings.parse({"phases": phases}, "here")


def test_levels_and_log_linear():
    field = FieldSettings(levels=6, initial_levels=2, increase_bandwidth_every=10)
    assert [schedule.active_levels(step, field) for step in (0, 9, 10, 39, 40, 99)] == [
        2, 2, 3, 5, 6, 6,
    ]  # fmt: skip
    assert schedule.log_linear(1e-2, 1e-4, 0.5) == pytest.approx(1e-3)
    assert schedule.log_linear(1e-2, 1e-4, 2.0) == pytest.approx(1e-4)


# ---------------------------------------------------------------------------------------- poses
def test_poses_start_where_they_should_and_turn_about_the_object():
    start = torch.tensor(turntable(np.arange(3) * 2.0, 0.3, 15.0), dtype=torch.float64)
    poses = LearnedPoses(start, "first", "adam")
    torch.testing.assert_close(poses(), start)
    with torch.no_grad():
        poses.parameters_[1, 4] = 0.1  # about camera 1's own y axis
    moved = poses()
    torch.testing.assert_close(moved[0], start[0])
    # A turn about the origin keeps the origin where camera 1 sees it.
    seen = -(moved[1, :3, :3].T @ moved[1, :3, 3])
    torch.testing.assert_close(seen, -(start[1, :3, :3].T @ start[1, :3, 3]), atol=1e-9, rtol=0)
    turned = moved[1, :3, :3] @ start[1, :3, :3].T
    axis = start[1, :3, 1] * 0.1
    cross = torch.linalg.matrix_exp(
        torch.tensor(
            [[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]],
            dtype=torch.float64,
        )
    )
    torch.testing.assert_close(turned, cross)


def test_depth_moves_in_units_of_the_distance():
    start = torch.tensor(turntable(np.zeros(2), 0.0, 15.0), dtype=torch.float64)
    poses = LearnedPoses(start, "first", "adam")
    with torch.no_grad():
        poses.parameters_[1, 2] = 0.01
    assert torch.linalg.vector_norm(poses()[1, :3, 3]).item() == pytest.approx(15 * 0.99)


def test_mean_gauge_ignores_a_common_world_motion():
    start = torch.tensor(turntable(np.arange(4) * 1.5, 0.3, 15.0), dtype=torch.float64)
    poses = LearnedPoses(start, "mean", "adam")
    with torch.no_grad():
        world = torch.tensor([0.0, 0.0, 0.2], dtype=torch.float64)
        poses.parameters_[:, 3:] = start[:, :3, :3].transpose(1, 2) @ world
    torch.testing.assert_close(poses(), start)


def test_fixed_poses_take_no_gradient():
    poses = LearnedPoses(torch.eye(4).expand(2, 4, 4), "mean", "fixed")
    assert not any(parameter.requires_grad for parameter in poses.parameters())


def test_last_scale_is_one():
    scales = ViewScales(3)
    scales.logarithms.data[:] = torch.tensor([0.0, math.log(2.0)])
    assert scales().tolist() == pytest.approx([1.0, 2.0, 1.0])


# -------------------------------------------------------------------------------------- patches
def test_patches_show_their_pixels_and_rays_meet_them():
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


def test_a_draw_depends_on_its_seed_only():
    sampler = PatchSampler(Views.of(*sphere_capture()), 3, 2, 0.25)
    one = sampler.draw(16, StepRng(7, torch.tensor(0)))
    again = sampler.draw(16, StepRng(7, torch.tensor(0)))
    other = sampler.draw(16, StepRng(8, torch.tensor(0)))
    assert torch.equal(one.pixels, again.pixels)
    assert not torch.equal(one.pixels, other.pixels)


def test_held_out_views_are_left_out():
    views = Views.of(*sphere_capture(), exclude=("01", "04"))
    assert views.names == ("00", "02", "03", "05")
    with pytest.raises(InputError, match="exclude_views names '99'"):
        Views.of(*sphere_capture(), exclude=("99",))


# --------------------------------------------------------------------------------------- losses
def test_normal_loss_by_hand():
    rendered = torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    given = torch.tensor([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([1.0, 1.0, 0.0])
    assert normal_loss(rendered, given, mask, "l2").item() == pytest.approx(1.0)
    assert normal_loss(rendered, given, mask, "l1").item() == pytest.approx(1.0)


def test_mask_and_eikonal_losses_by_hand():
    opacity = torch.tensor([0.8, 0.5])
    value = mask_loss(opacity, torch.tensor([1.0, 0.0])).item()
    assert value == pytest.approx((-math.log(0.8) - math.log(0.5)) / 2)
    sums = torch.tensor([[0.5, 1.5], [0.0, 1.0]])
    assert eikonal_loss(sums, torch.tensor(6)).item() == pytest.approx(0.5)
    assert eikonal_loss(0 * sums, torch.tensor(0)).item() == 0


def test_depth_scales_are_exact_when_only_the_scale_differs():
    generator = torch.Generator().manual_seed(0)
    rendered = torch.rand(6, 3, 3, generator=generator) + 14
    view = torch.tensor([0, 1, 2, 0, 1, 2])
    true_scale = torch.tensor([2.0, 0.5, 15.0])
    integrated = rendered / true_scale[view][:, None, None]
    mask = torch.ones(6, 3, 3)
    mask[0, 0] = 0
    integrated[0, 0] = 77  # outside the mask: must not matter
    scale = closed_form_scales(integrated, rendered, mask, view, 3)
    torch.testing.assert_close(scale, true_scale)
    assert depth_loss(integrated, rendered, mask, scale[view]) < 1e-5
    shifted = depth_loss(integrated, rendered + 0.25, mask, scale[view])
    assert shifted.item() == pytest.approx(0.25, abs=1e-5)


def test_robust_depth_ignores_scale_and_shift():
    generator = torch.Generator().manual_seed(0)
    rendered = torch.rand(6, 3, 3, generator=generator)
    view = torch.tensor([0, 1, 0, 1, 0, 1])
    integrated = rendered * torch.tensor([2.0, 5.0])[view][:, None, None] + 3
    mask = torch.ones(6, 3, 3)
    assert robust_depth_loss(integrated, rendered, mask, view, 2) < 1e-5
    integrated[0, 0, 0] += 1
    assert robust_depth_loss(integrated, rendered, mask, view, 2) > 1e-2


def test_medians_of_groups_by_hand():
    values = torch.tensor([5.0, 1.0, 9.0, 4.0, 2.0])
    group = torch.tensor([0, 2, 0, 0, 2])
    assert group_medians(values, group, 4).tolist() == [5.0, 0.0, 2.0, 0.0]


def test_consistency_is_zero_for_the_truth_and_positive_for_a_moved_camera():
    capture, distances = sphere_capture()
    views = Views.of(capture, distances)
    c2w = torch.tensor(capture.reference_c2w, dtype=torch.float32)
    x = 0.5 * torch.nn.functional.normalize(c2w[[0, 0, 1], :3, 3] + c2w[[1, 1, 2], :3, 3], dim=-1)
    other = torch.tensor([1, 1, 2])
    arguments = (x, 2 * x, other, torch.ones(3, dtype=torch.bool))
    images = (views.intrinsics.float(), views.normals, views.masks.float())
    assert consistency_loss(*arguments, c2w, *images) < 1e-3
    moved = c2w.clone()
    moved[:, :3, 3] += 0.1 * moved[:, :3, 0]
    assert consistency_loss(*arguments, moved, *images) > 0.005
    hidden = (*arguments[:3], torch.zeros(3, dtype=torch.bool))
    assert consistency_loss(*hidden, c2w, *images) == 0


def test_back_projection_surface_and_chamfer_by_hand():
    pose = torch.eye(4).repeat(2, 1, 1)
    pose[:, 2, 3] = -15
    m = torch.tensor([[0.0, 0.0, 1.0], [0.75, 0.0, 1.0]])
    points = back_project(m, torch.tensor([14.5, 1.25]), pose)
    torch.testing.assert_close(points, torch.tensor([[0, 0, -0.5], [0.75, 0, -14.0]]))
    linear = GridSDF(grid_nodes(5, torch.device("cpu"))[..., 2])
    on = torch.tensor([1.0, 0.0])
    assert surface_loss(linear, points, on).item() == pytest.approx(0.5)
    cloud = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [0, 0.5, 0], [9.0, 9, 9]])
    view = torch.tensor([0, 0, 1, 1])
    mask = torch.tensor([1.0, 1, 1, 0])
    # With three views, 0 and 1 are neighbours: 0.5, sqrt(1.25) one way, 0.5 the other way.
    value = chamfer_loss(cloud, view, 3, mask)
    assert value.item() == pytest.approx((0.5 + math.sqrt(1.25) + 0.5) / 3)


# ----------------------------------------------------------------------------------- warm start
def test_contour_lies_halfway_between_pixels():
    mask = np.zeros((5, 7), bool)
    mask[:, 3:] = True
    assert mask_distances(mask[None])[0, 2].tolist() == [2.5, 1.5, 0.5, -0.5, -1.5, -2.5, -3.5]


def test_hull_of_a_sphere_is_nearly_the_sphere_and_tolerates_a_bad_view():
    capture, distances = sphere_capture(views=12)
    views = Views.of(capture, distances)
    c2w = torch.tensor(capture.reference_c2w, dtype=torch.float32)
    nodes = grid_nodes(33, torch.device("cpu"))
    radius = torch.linalg.vector_norm(nodes, dim=-1)
    # On the equator of the viewing circle the silhouettes touch the sphere.
    distances = torch.from_numpy(mask_distances(capture.masks))
    hull = visual_hulls(distances, views.intrinsics.float(), c2w, 33, 0)[0]
    assert (hull[radius < 0.46] < 0).all()
    assert (hull[radius > 0.62] > 0).all()
    wrong = c2w.clone()
    wrong[3, :3, 3] += wrong[3, :3, 0] * 0.4  # the view looks past the object
    strict, tolerant = visual_hulls(distances, views.intrinsics.float(), wrong, 33, 1)
    assert (strict[radius < 0.4] > 0).any()
    assert (tolerant[radius < 0.46] < 0).all()


def test_hulls_are_the_values_of_the_views_in_order():
    capture, _ = sphere_capture(views=6)
    distances = torch.from_numpy(mask_distances(capture.masks))
    K = torch.tensor(capture.intrinsics, dtype=torch.float32)
    c2w = torch.tensor(capture.reference_c2w, dtype=torch.float32)
    views = zip(distances.split(1), K.split(1), c2w.split(1), strict=True)
    single = [visual_hulls(*view, 17, 0) for view in views]
    expected = torch.cat(single).sort(dim=0, descending=True).values[:4]
    assert torch.equal(visual_hulls(distances, K, c2w, 17, 3), expected)


def test_network_is_fitted_to_a_grid():
    nodes = grid_nodes(33, torch.device("cpu"))
    box = (nodes.abs() - torch.tensor([0.5, 0.3, 0.2])).amax(-1)
    network = NeuralSDF(FieldSettings(levels=5, log2_entries=14, base_resolution=8), seed=0)
    error = fit_network(network, box, changed(TINY, warm_start={"steps": 80, "points": 2048}))
    assert error < 0.03
    on = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, -0.2]])
    assert network(on).abs().max() < 0.03
