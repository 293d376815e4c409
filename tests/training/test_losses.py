"""Loss terms against values worked out by hand."""

import math

import pytest
import torch
from fixtures.training import sphere_capture

from pmni.data.views import Views
from pmni.sdf.grid import GridSDF, grid_nodes
from pmni.training.losses.base import back_project, closed_form_scales
from pmni.training.losses.chamfer import chamfer_loss
from pmni.training.losses.consistency import consistency_loss
from pmni.training.losses.depth import depth_loss
from pmni.training.losses.depth_robust import group_medians, robust_depth_loss
from pmni.training.losses.eikonal import eikonal_loss
from pmni.training.losses.mask import mask_loss
from pmni.training.losses.normal import normal_loss
from pmni.training.losses.surface import surface_loss


def test_normal_loss_by_hand() -> None:
    rendered = torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    given = torch.tensor([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([1.0, 1.0, 0.0])
    assert normal_loss(rendered, given, mask, "l2").item() == pytest.approx(1.0)
    assert normal_loss(rendered, given, mask, "l1").item() == pytest.approx(1.0)


def test_mask_and_eikonal_losses_by_hand() -> None:
    opacity = torch.tensor([0.8, 0.5])
    value = mask_loss(opacity, torch.tensor([1.0, 0.0])).item()
    assert value == pytest.approx((-math.log(0.8) - math.log(0.5)) / 2)
    sums = torch.tensor([[0.5, 1.5], [0.0, 1.0]])
    assert eikonal_loss(sums, torch.tensor(6)).item() == pytest.approx(0.5)
    assert eikonal_loss(0 * sums, torch.tensor(0)).item() == 0


def test_depth_scales_are_exact_when_only_the_scale_differs() -> None:
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


def test_robust_depth_ignores_scale_and_shift() -> None:
    generator = torch.Generator().manual_seed(0)
    rendered = torch.rand(6, 3, 3, generator=generator)
    view = torch.tensor([0, 1, 0, 1, 0, 1])
    integrated = rendered * torch.tensor([2.0, 5.0])[view][:, None, None] + 3
    mask = torch.ones(6, 3, 3)
    assert robust_depth_loss(integrated, rendered, mask, view, 2) < 1e-5
    integrated[0, 0, 0] += 1
    assert robust_depth_loss(integrated, rendered, mask, view, 2) > 1e-2


def test_medians_of_groups_by_hand() -> None:
    values = torch.tensor([5.0, 1.0, 9.0, 4.0, 2.0])
    group = torch.tensor([0, 2, 0, 0, 2])
    assert group_medians(values, group, 4).tolist() == [5.0, 0.0, 2.0, 0.0]


def test_consistency_is_zero_for_the_truth_and_positive_for_a_moved_camera() -> None:
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


def test_back_projection_surface_and_chamfer_by_hand() -> None:
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
