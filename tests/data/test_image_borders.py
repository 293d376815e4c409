"""Objects that the border of a smaller view cuts off: what is not seen is not taken for empty."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.analytic_sdfs import sphere
from fixtures.refinement import (
    blob,
    cameras,
    observations_of,
    refined,
    rotation_errors,
    surface_errors,
    wrong_poses,
)
from fixtures.training import sphere_capture
from fixtures.working_views import working_views
from registration.test_pairwise import duck as near_duck

from pmni.config.registration import OverlapSettings
from pmni.data.capture import Capture, load_capture, save_capture
from pmni.data.resize import resized
from pmni.data.views import Views
from pmni.errors import InputError
from pmni.geometry.silhouettes import signed_distances
from pmni.refinement.observations import contour_points
from pmni.refinement.residuals import contour_residuals
from pmni.refinement.state import State
from pmni.registration.pairwise.epipolar_tangency import hull_rays, tangency
from pmni.registration.pairwise.overlap import overlap_score
from pmni.registration.verification.trial import downsampled
from pmni.registration.working_views import UNOBSERVED
from pmni.sdf.grid import grid_nodes
from pmni.sdf.narrow_band import resample
from pmni.sdf.visual_hull import visual_hulls
from pmni.training.patches import PatchSampler
from pmni.training.rng import StepRng

CPU = torch.device("cpu")


def cut(capture: Capture, crops: dict[int, tuple[int, int]]) -> Capture:
    """With some views' images reduced to the first rows and columns, and padded again."""
    masks, sizes = capture.masks.copy(), capture.image_sizes().copy()
    for view, (height, width) in crops.items():
        masks[view, height:] = masks[view, :, width:] = False
        sizes[view] = height, width
    return replace(capture, masks=masks, normals=capture.normals * masks[..., None], sizes=sizes)


def sphere_cut() -> Capture:
    """A ball; view 2 shows its left part and no more."""
    capture, _ = sphere_capture(views=8)
    return cut(capture, {2: (48, 34)})


# ------------------------------------------------------------------------------- the capture
def test_sizes_are_kept_and_an_old_file_has_none(tmp_path: Path) -> None:
    capture = sphere_cut()
    save_capture(tmp_path / "new", capture)
    found = load_capture(tmp_path / "new")
    assert found.image_sizes().tolist() == [[48, 64]] * 2 + [[48, 34]] + [[48, 64]] * 5
    save_capture(tmp_path / "old", replace(capture, sizes=None))
    with np.load(tmp_path / "old/capture.npz") as archive:
        assert "sizes" not in archive
    old = load_capture(tmp_path / "old")
    assert old.sizes is None
    assert old.image_sizes().tolist() == [[48, 64]] * 8


def test_resizing_keeps_whole_pixels_of_each_image() -> None:
    small = resized(cut(sphere_capture(views=8)[0], {2: (47, 35)}), 0.5)
    assert small.image_sizes()[[0, 2]].tolist() == [[24, 32], [23, 17]]
    assert small.masks[0, :, 17:].any()
    assert not small.masks[2, :, 17:].any()


# ---------------------------------------------------------------------- contours and the hull
def test_a_cut_is_no_contour() -> None:
    capture = sphere_cut()
    found, padded = (observations_of(c) for c in (capture, replace(capture, sizes=None)))
    rows = slice(int(found.first_contour_point[2]), int(found.first_contour_point[3]))
    whole = contour_points(sphere_capture(views=8)[0].masks[2])
    kept = whole[whole[:, 0] <= 33]
    assert sorted(map(tuple, found.contour[rows].tolist())) == sorted(map(tuple, kept.tolist()))
    assert len(padded.contour) > len(found.contour)


def test_a_view_without_a_contour_has_no_residuals_of_one() -> None:
    capture, _ = sphere_capture(views=8)
    masks = capture.masks.copy()
    masks[7] = True
    normals = capture.normals.copy()
    normals[7] = [0, 0, -1]
    observations = observations_of(replace(capture, masks=masks, normals=normals))
    index = observations.sample_contour(50, torch.Generator().manual_seed(0))
    c2w = torch.tensor(capture.reference_c2w)
    state = State.start(resample(sphere(0.5), 32, CPU, 4), c2w)
    valid = contour_residuals(observations, state, index).valid.view(8, 50)
    assert valid.sum(1).tolist() == [50] * 7 + [0]


def test_what_only_a_cut_view_does_not_show_stays_in_the_hull() -> None:
    capture = sphere_cut()
    c2w = torch.tensor(capture.reference_c2w, dtype=torch.float32)
    K = torch.tensor(capture.intrinsics, dtype=torch.float32)
    nodes = grid_nodes(33, CPU)
    inside = torch.linalg.vector_norm(nodes, dim=-1) < 0.46
    sizes = torch.from_numpy(capture.image_sizes())
    distances = torch.from_numpy(signed_distances(capture.masks, capture.image_sizes()))
    hull = visual_hulls(distances, K, c2w, 33, 0, sizes)[0]
    assert (hull[inside] < 0).all()
    outside = torch.linalg.vector_norm(nodes, dim=-1) > 0.62
    assert (hull[outside] > 0).all()
    padded = torch.from_numpy(signed_distances(capture.masks))
    assert (visual_hulls(padded, K, c2w, 33, 0)[0][inside] > 0).any()


def test_what_no_view_shows_is_outside_the_hull() -> None:
    capture = cut(sphere_capture(views=8)[0], dict.fromkeys(range(8), (24, 64)))
    c2w = torch.tensor(capture.reference_c2w, dtype=torch.float32)
    K = torch.tensor(capture.intrinsics, dtype=torch.float32)
    sizes = capture.image_sizes()
    hulls = visual_hulls(
        torch.from_numpy(signed_distances(capture.masks, sizes)), K, c2w, 33, 1,
        torch.from_numpy(sizes),
    )  # fmt: skip
    nodes = grid_nodes(33, CPU)
    across = torch.linalg.vector_norm(nodes[..., :2], dim=-1)
    unseen = (across < 0.3) & (nodes[..., 2] < -0.5)  # the images end at the ball's middle
    assert (hulls[:, unseen] > 0).all()
    seen = (torch.linalg.vector_norm(nodes, dim=-1) < 0.46) & (nodes[..., 2] > 0.25)
    assert (hulls[:, seen] < 0).all()


# ------------------------------------------------------------------------------- refinement
def test_a_cut_view_does_no_harm_to_poses_and_surface() -> None:
    capture, mesh = blob()
    smaller = cut(capture, {3: (52, 60)})
    assert smaller.masks[3].sum() < 0.75 * capture.masks[3].sum()
    solver, _ = refined(smaller, wrong_poses(), pixels=800)
    errors = rotation_errors(solver.state.c2w().numpy(), cameras())
    assert errors[3] < 1.2, "0.2 to 0.9 by the draws; 7 if the padding counts as empty"
    assert errors.mean() < 0.5
    assert surface_errors(solver.state.surface, mesh).mean() < 0.0015


# --------------------------------------------------------------------------------- training
def test_patches_keep_within_each_image() -> None:
    capture = sphere_cut()
    distances = np.zeros(capture.masks.shape, np.float32)
    views = Views.of(capture, distances)
    batch = PatchSampler(views, 3, 4, 0.5).draw(20000, StepRng(0, torch.tensor(0)))
    own = views.sizes[batch.view].flip(-1)[:, None, None]
    assert (batch.pixels < own).all()
    column = batch.pixels[batch.view == 2][..., 0]
    assert column.max() == 33
    assert batch.pixels[batch.view == 1][..., 0].max() > 34


# ----------------------------------------------------------------------------- registration
def test_the_search_takes_what_is_beyond_the_border_for_unknown() -> None:
    capture, distances = near_duck()
    box = np.argwhere(capture.masks[1])
    right = int(np.quantile(box[:, 1], 0.7))
    smaller = cut(capture, {1: (capture.masks.shape[1], right)})
    known = np.where(smaller.masks, distances, np.nan)
    views = working_views(smaller, known)
    assert views.unobserved.any((1, 2)).tolist() == [False, True, False, False]
    assert not (views.signed_distance[views.unobserved] < 0).any()
    # the cut is no contour: near it the distance is that from the rest of the outline
    column = int(torch.nonzero(~views.unobserved[1])[:, 1].max())
    middle = int(torch.nonzero(views.signed_distance[1, :, column] < 0).float().mean())
    assert views.signed_distance[1, middle, column] < -3

    relative = capture.reference_c2w[1].T @ capture.reference_c2w[0]
    R = torch.from_numpy(relative[:3, :3].astype(np.float32))[None]
    t = views.centres[1] - (R[0] @ views.centres[0])
    pair = torch.tensor([0]), torch.tensor([1])
    scales = 0.0625, 0.3, OverlapSettings()
    found = overlap_score(views, *pair, R, t[None], *scales)
    padded = working_views(replace(smaller, sizes=None), known)
    assert (
        found.outside
        < 0.7 * overlap_score(padded, *pair, R, t[None], 0.0625, 0.3, OverlapSettings()).outside
    )

    hulls = hull_rays(views)
    poses = np.linalg.inv(capture.reference_c2w)
    first, second = np.array([0, 0]), np.array([1, 2])
    steps = poses[second] @ np.linalg.inv(poses[first])
    centres = views.centres.double().numpy()
    met = tangency(hulls, centres, 0.8, first, second, steps[:, :3, :3], steps[:, :3, 3])
    assert met.valid.tolist() == [False, True]
    assert not met.residuals[0].any()


@pytest.mark.parametrize("flipped", [False, True])
def test_the_views_of_the_search_become_a_capture_with_sizes(flipped: Any) -> None:
    """Also where the border cuts the object on the left, so that the view has to be moved."""
    capture, distances = near_duck()
    if flipped:  # turned by half a turn in the image
        turned = {name: np.flip(getattr(capture, name), (1, 2)) for name in ("normals", "masks")}
        normals = np.ascontiguousarray(turned["normals"] * [-1, -1, 1], dtype=np.float32)
        capture = replace(capture, normals=normals, masks=turned["masks"].copy())
        distances = np.flip(distances, (1, 2)).copy()
    left = int(np.quantile(np.argwhere(capture.masks[1])[:, 1], 0.3))
    # a smaller image that begins where the object is cut
    shown = np.zeros_like(capture.masks)
    shown[:, :, : capture.masks.shape[2] - left] = capture.masks[:, :, left:]
    normals = np.zeros_like(capture.normals)
    normals[:, :, : capture.masks.shape[2] - left] = capture.normals[:, :, left:]
    moved = np.full_like(distances, np.nan)
    moved[:, :, : capture.masks.shape[2] - left] = distances[:, :, left:]
    intrinsics = capture.intrinsics.copy()
    intrinsics[:, 0, 2] -= left
    cut_left = replace(capture, masks=shown, normals=normals, intrinsics=intrinsics)
    views = working_views(cut_left, np.where(shown, moved, np.nan))
    assert views.unobserved[1].any()
    small = downsampled(cut_left, views)
    assert small.masks.sum() == (views.signed_distance < 0).sum()
    assert small.masks[1, :, 0].any(), "the border is the first column"
    height, width = small.image_sizes()[1]
    assert not small.masks[1, height:].any()
    assert not small.masks[1, :, width:].any()
    # a pixel keeps its ray
    row, column = np.argwhere((views.signed_distance[1] < 0).numpy())[0]
    there = np.linalg.solve(views.intrinsics[1].double().numpy(), [column, row, 1.0])
    row, column = np.argwhere(small.masks[1])[0]
    np.testing.assert_allclose(np.linalg.solve(small.intrinsics[1], [column, row, 1.0]), there)


def test_an_object_that_fills_all_images_is_one_line() -> None:
    capture, _ = sphere_capture(views=8)
    normals = np.broadcast_to(np.float32([0, 0, -1]), capture.normals.shape).copy()
    full = replace(capture, masks=np.ones_like(capture.masks), normals=normals)
    with pytest.raises(InputError, match="sphere: the object fills all images; its outline must"):
        observations_of(full)
    assert 4 * full.masks.shape[2] < UNOBSERVED
