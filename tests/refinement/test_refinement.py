"""Refinement of an analytic scene as a whole: what it finds, what it leaves alone, what it refuses.

Images of 96 x 80 pixels: a pixel is 1/30 of the object's radius. Exact normals unless said.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from pmni.cli.main import main
from pmni.config.refinement import RefineSettings
from pmni.data.capture import Capture, save_capture
from pmni.errors import ConvergenceError, LostSurfaceError
from pmni.geometry.cameras import look_at, pixel_grid, ray_directions
from pmni.geometry.mesh import Mesh
from pmni.geometry.poses import Poses
from pmni.geometry.transforms import rotation_angle_deg
from pmni.io.poses import read_poses, write_poses
from pmni.refinement.completion import complete_surface
from pmni.refinement.initial_surface import initial_hull
from pmni.refinement.observations import load_observations
from pmni.refinement.residuals import Residuals
from pmni.refinement.schedule import FULL_STEPS, PATIENCE, coarse_to_fine
from pmni.refinement.solver import GaussNewtonSolver, Report, check_converged, finest_cells
from pmni.refinement.weights import (
    EXACT_CONTOUR,
    Scales,
    boundary_erosion,
    lower_medians,
    weighted_normals,
)
from pmni.registration.perturbation import add_view_errors
from pmni.sdf.checkpoint import load_surface
from pmni.sdf.grid import GridSDF
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.synthetic.mask_errors import extended
from pmni.synthetic.rendering import render
from pmni.synthetic.scenes import HALF_SIDE, SCENES
from pmni.synthetic.solid import make_solid
from pmni.synthetic.spheretrace import AnalyticSurface

CPU = torch.device("cpu")
VIEWS, HEIGHT, WIDTH = 10, 80, 96
K = np.array([[560.0, 0, 47.5], [0, 560.0, 39.5], [0, 0, 1]])
PIXEL = 15 / 560
"""Width at the object, normalised units."""


def cameras() -> np.ndarray:
    """Hand-held, once round the object, 15 away."""
    rng = np.random.default_rng(0)
    c2w = []
    for view in range(VIEWS):
        azimuth = 2 * np.pi * (view + rng.uniform(-0.2, 0.2)) / VIEWS
        elevation = np.deg2rad(rng.uniform(0, 50))
        flat = np.cos(elevation) * np.array([np.cos(azimuth), np.sin(azimuth)])
        position = 15 * (1 + 0.01 * rng.normal()) * np.array([*flat, np.sin(elevation)])
        c2w.append(look_at(position, np.zeros(3), roll=float(rng.normal(0, 0.15))))
    return np.stack(c2w)


@cache
def duck() -> tuple[Capture, Mesh]:
    """A smooth object without symmetry."""
    solid = make_solid(SCENES["blob"](), HALF_SIDE, 4000).fitted(0.8)
    images = list(render(AnalyticSurface(solid), K, cameras(), HEIGHT, WIDTH))
    capture = Capture(
        name="duck",
        views=tuple(f"{view:02d}" for view in range(VIEWS)),
        normals=np.stack([image.normals for image in images]),
        masks=np.stack([image.mask for image in images]),
        intrinsics=np.stack([K] * VIEWS),
        reference_c2w=cameras(),
    )
    return capture, solid.mesh


def wrong_poses() -> np.ndarray:
    """2 to 4 degrees and 1 % of the distance wrong."""
    return add_view_errors(cameras(), (2.0, 4.0), 0.01, np.random.default_rng(1))


def refined(
    capture: Capture, start: np.ndarray, coarsest: int = 32, **settings
) -> tuple[GaussNewtonSolver, list[Report]]:
    """On 32 and 64 cells unless said."""
    chosen = RefineSettings.parse({"cells": 64, "device": "cpu"} | settings, "test")
    observations = load_observations(capture, chosen.exclude_views, CPU)
    names = [capture.views.index(name) for name in observations.names]
    c2w = torch.from_numpy(start[names])
    solver = GaussNewtonSolver(observations, initial_hull(observations, c2w), c2w, chosen, coarsest)
    return solver, list(coarse_to_fine(solver))


def rotation_errors(c2w: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Degrees, after the rotation of the world that fits best."""
    mean, _ = Rotation.align_vectors(
        reference[:, :3, :3].transpose(0, 2, 1).reshape(-1, 3),
        c2w[:, :3, :3].transpose(0, 2, 1).reshape(-1, 3),
    )
    return rotation_angle_deg(mean.as_matrix() @ c2w[:, :3, :3], reference[:, :3, :3])


def surface_errors(surface: NarrowBandSDF, mesh: Mesh) -> np.ndarray:
    """Distances of the mesh's vertices from the surface, after the similarity that fits best."""
    points = mesh.vertices[np.random.default_rng(0).permutation(len(mesh.vertices))[:1500]]

    def distances(q: np.ndarray) -> np.ndarray:
        moved = np.exp(q[6]) * Rotation.from_rotvec(q[:3]).apply(points) + q[3:6]
        return surface(torch.from_numpy(moved).float()).numpy().astype(float)

    found = least_squares(distances, np.zeros(7), diff_step=1e-3, loss="soft_l1", f_scale=0.005)
    return np.abs(distances(found.x))


# -------------------------------------------------------------------------- the stage as a whole
@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """The folder of a capture and of wrong poses."""
    folder = tmp_path_factory.mktemp("refine")
    capture, _ = duck()
    save_capture(folder / "capture", capture)
    write_poses(folder / "initial_poses.json", Poses(capture.views, wrong_poses()))
    return folder


def run(inputs: Path, output: Path, poses: str = "initial_poses.json", **settings) -> int:
    given = json.dumps({"device": "cpu", "pixels": 1200} | settings)
    return main(["refine", "--capture", str(inputs / "capture"), "--poses", str(inputs / poses),
                 "--settings", given, "--output", str(output)])  # fmt: skip


@pytest.fixture(scope="module")
def output(inputs) -> Path:
    """Exact normals drift by nothing, so no bias is looked for."""
    folder = inputs / "out"
    assert run(inputs, folder, cells=128, iterations=[6, 8, 5], bias_deg=0) == 0
    return folder


def test_wrong_poses_become_right(output):
    assert rotation_errors(wrong_poses(), cameras()).min() > 1
    errors = rotation_errors(read_poses(output / "refined_poses.json").c2w, cameras())
    assert errors.mean() < 0.15
    assert errors.max() < 0.3


def test_the_surface_is_right_to_a_fraction_of_a_pixel(output):
    surface = load_surface(output / "surface.safetensors", CPU)
    assert isinstance(surface, NarrowBandSDF)
    assert surface.grid.cells == 128
    errors = surface_errors(surface, duck()[1])
    assert errors.mean() < 0.05 * PIXEL
    assert np.quantile(errors, 0.95) < 0.15 * PIXEL


def test_what_the_stage_leaves(output):
    files = {path.name for path in output.iterdir()}
    assert files == {
        "refined_poses.json", "surface.safetensors", "surface.safetensors.sha256", "history.csv",
        "provenance.json",
    }  # fmt: skip
    history = pd.read_csv(output / "history.csv")
    assert history.iteration.tolist() == list(range(1, len(history) + 1))
    assert {
        "cells", "seconds", "normal_residual_deg", "contour_residual_px", "rotation_change_deg",
        "flattening",
    } <= set(history.columns)  # fmt: skip
    assert sorted(set(history.cells)) == [64, 128]
    assert history.seconds.is_monotonic_increasing
    first, last = history.normal_residual_deg.iloc[[0, -1]]
    assert last < 1
    assert first > 5
    assert history.flattening.abs().iloc[-1] < 0.01
    provenance = json.loads((output / "provenance.json").read_text())
    assert provenance["stage"] == "refine"
    assert provenance["device"] == "cpu"
    assert provenance["seconds"] > 0


def test_covariances_tell_the_size_of_the_errors(output):
    poses = read_poses(output / "refined_poses.json")
    assert poses.information["method"] == "refine"
    covariances = np.array([poses.information["covariance"][view] for view in poses.views])
    assert covariances.shape == (VIEWS, 6, 6)
    np.testing.assert_allclose(covariances, covariances.transpose(0, 2, 1), rtol=1e-6, atol=1e-12)
    assert np.linalg.eigvalsh(covariances).min() > 0
    expected = np.rad2deg(np.sqrt(np.trace(covariances[:, :3, :3], axis1=1, axis2=2).mean()))
    found = rotation_errors(poses.c2w, cameras())
    assert 1 / 4 < expected / np.sqrt((found**2).mean()) < 4


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"exclude_views": ["x"]}, "exclude_views names 'x', which is not a view"),
        ({"exclude_views": [f"{view:02d}" for view in range(8)]}, "2 views are too few to refine"),
        ({"cells": 100}, "'cells'"),
        ({"iterations": [6, 8]}, "'iterations.2'"),
        ({"contours": 2}, "'contours'"),
    ],
)
def test_wrong_settings_are_one_line(inputs, tmp_path, capsys, settings, line):
    assert run(inputs, tmp_path, **settings) == 2
    error = capsys.readouterr().err
    assert error.startswith("pmni refine: error: ")
    assert error.count("\n") == 1
    assert line in error
    assert not (tmp_path / "refined_poses.json").exists()


def test_a_missing_pose_is_one_line(inputs, tmp_path, capsys):
    write_poses(inputs / "nine.json", Poses(duck()[0].views[:-1], wrong_poses()[:-1]))
    assert run(inputs, tmp_path, poses="nine.json") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no pose for view 09" in error


def test_a_view_without_pose_may_be_excluded(inputs, tmp_path):
    write_poses(inputs / "nine.json", Poses(duck()[0].views[:-1], wrong_poses()[:-1]))
    quick = {"cells": 32, "iterations": [2, 1, 1], "pixels": 300, "conjugate_gradients": 20}
    code = run(
        inputs, tmp_path, poses="nine.json", exclude_views=["09"], learn_poses=False, **quick
    )
    assert code == 0
    assert read_poses(tmp_path / "refined_poses.json").views == duck()[0].views[:-1]


# ------------------------------------------------------------------------- what stays as it is
def test_fixed_poses_do_not_move_and_excluded_views_do_not_count():
    capture, _ = duck()
    spoilt = replace(capture, normals=capture.normals.copy(), masks=capture.masks.copy())
    spoilt.masks[3] = np.roll(capture.masks[3], 9, axis=1)
    spoilt.normals[3] = np.roll(capture.normals[3], (5, 9), axis=(0, 1))
    results = [
        refined(
            given, cameras(), cells=32, learn_poses=False, exclude_views=["03"],
            iterations=[3, 1, 1], pixels=300, conjugate_gradients=20,
        )[0].state
        for given in (capture, spoilt)
    ]  # fmt: skip
    kept = np.delete(cameras(), 3, axis=0)
    for state in results:
        np.testing.assert_allclose(state.c2w().numpy(), kept, atol=1e-12)
    assert torch.equal(results[0].surface.values, results[1].surface.values)


def test_the_last_steps_are_averaged(monkeypatch):
    """1/2, 1/3, ... of them, which makes the running mean of what the steps lead to."""
    gains: dict[int, list[float]] = {}

    def step(self: GaussNewtonSolver, cells: int, gain: float = 1.0) -> Report:
        gains.setdefault(cells, []).append(gain)
        return GOOD

    monkeypatch.setattr(GaussNewtonSolver, "step", step)
    refined(duck()[0], cameras(), iterations=[2, 1, FULL_STEPS + 3])
    assert gains == {32: [1.0] * 2, 64: [1.0] * FULL_STEPS + [1 / 2, 1 / 3, 1 / 4]}


@pytest.mark.parametrize(
    ("left", "steps"),
    [
        (0.995, [2, 4, FULL_STEPS]),
        (0.98, [2, 4, PATIENCE * FULL_STEPS]),
        (0.95, [2, PATIENCE * 4, PATIENCE * FULL_STEPS]),
    ],
)
def test_a_grid_has_more_steps_while_the_normals_come_to_fit_better(monkeypatch, left, steps):
    """Each step leaves so much of the residual; two of 0.98 are enough on the finest grid only."""
    taken: list[int] = []

    def step(self: GaussNewtonSolver, cells: int, gain: float = 1.0) -> Report:
        taken.append(cells)
        return replace(GOOD, cells=cells, normal_residual_deg=10 * left ** len(taken))

    monkeypatch.setattr(GaussNewtonSolver, "step", step)
    refined(duck()[0], cameras(), cells=128, iterations=[2, 4, FULL_STEPS])
    assert [taken.count(cells) for cells in (32, 64, 128)] == steps


def test_the_rim_that_is_not_trusted():
    """As wide as a mask is too large, wider where contours are jittered, 5 pixels at most."""
    offsets = torch.tensor([-1.0, 0.0, 2.0, 9.0])
    for contour, jittered in ((0.2, 0.0), (EXACT_CONTOUR + 0.5, 1.0)):
        scales = Scales(0.1, contour, torch.full((4,), 0.1))
        expected = torch.tensor([jittered, jittered, 2 + jittered, 5])
        torch.testing.assert_close(boundary_erosion(offsets, scales), expected)


def test_normals_of_other_parts_count_by_their_direction_and_in_the_end_not_at_all():
    value = torch.tensor([[0.1, 0, 0], [0, 0.4, 0], [0, 0, 1.6], [0, 0, 0.1]])
    rows, derivatives = torch.zeros(4, 8, dtype=torch.long), torch.zeros(4, 3, 26)
    valid = torch.tensor([1.0, 1, 1, 0])
    normals = Residuals(value, rows, *derivatives.split([8, 16, 2], -1), valid)
    scales = Scales(0.1, 0.2, torch.full((1,), 0.1))
    huber = torch.tensor([1, 0.3 / 0.4, 0.3 / 1.6, 0])
    fitting = torch.exp(-((torch.tensor([0.1, 0.4, 1.6, 0.1]) / 0.4) ** 2))
    for settled, expected in ((False, huber), (True, huber * fitting)):
        weight = weighted_normals(normals, scales, settled).root_weight ** 2
        torch.testing.assert_close(weight, expected)
    assert weight[2] < 1e-6


def test_medians_are_those_of_the_numbers_in_each_row():
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.integers(0, 9, (50, 31)).astype(np.float32))
    values[torch.from_numpy(rng.uniform(size=values.shape) < 0.4)] = torch.nan
    values[3] = torch.nan
    expected = values.nanmedian(dim=1).values
    torch.testing.assert_close(lower_medians(values), expected, rtol=0, atol=0, equal_nan=True)


def test_a_surface_that_no_ray_meets_is_lost():
    observations = load_observations(duck()[0], (), CPU)
    nothing = GridSDF(torch.full((33, 33, 33), 0.5))
    solver = GaussNewtonSolver(
        observations, nothing, torch.from_numpy(cameras()), RefineSettings(pixels=200), 32
    )
    with pytest.raises(LostSurfaceError, match="no pixel of any mask sees the surface"):
        solver.step(32)


def test_what_no_camera_sees_is_closed_smoothly_and_marked():
    """The cameras look down on the object."""
    solver, _ = refined(duck()[0], cameras(), learn_poses=False, pixels=700, iterations=[3, 1, 2])
    before = solver.state.surface
    after = complete_surface(solver)
    near = before.values.abs() < before.grid.spacing
    assert torch.equal(after.values[near & after.observed], before.values[near & after.observed])
    rough, smooth = (
        surface.grid.laplacian(surface.values)[near & ~after.observed].abs().mean()
        for surface in (before, after)
    )
    assert smooth < 0.5 * rough
    height = after.grid.positions()[near, 2]
    lowest, highest = height < height.quantile(0.02), height > height.quantile(0.98)
    assert after.observed[near][highest].float().mean() > 0.9
    assert after.observed[near][lowest].float().mean() < 0.7


def test_the_grid_is_as_fine_as_the_pixels():
    observations = load_observations(duck()[0], (), CPU)
    c2w = torch.from_numpy(cameras())
    assert finest_cells(observations, c2w) == 128
    for sharper, cells in ((2, 256), (6, 512), (24, 512)):
        zoomed = replace(observations, intrinsics=observations.intrinsics * sharper)
        assert finest_cells(zoomed, c2w) == cells


# ----------------------------------------------------------------- what is wrong with the inputs
def flattened(capture: Capture, amount: float) -> Capture:
    """Normals drawn towards the camera by amount * sin(angle to it), radians."""
    rays = ray_directions(pixel_grid(HEIGHT, WIDTH), np.linalg.inv(K))
    axis = np.cross(-rays, capture.normals)  # sin(angle) long: turning about it raises the angle
    turn = Rotation.from_rotvec(-amount * axis.reshape(-1, 3))
    normals = turn.apply(capture.normals.reshape(-1, 3)).reshape(capture.normals.shape)
    return replace(capture, normals=normals)


@pytest.mark.parametrize("amount", [0.0, 0.08])
def test_flattening_is_found_and_none_where_there_is_none(amount):
    solver, _ = refined(
        flattened(duck()[0], amount), cameras(), learn_poses=False, pixels=600,
        iterations=[2, 1, 4],
    )  # fmt: skip
    found = float(solver.state.flattening)
    assert found == pytest.approx(amount, abs=max(0.4 * abs(amount), 0.01))


def remasked(capture: Capture, grow: list[int]) -> Capture:
    """Masks larger or smaller by a pixel; normals outside are the nearest ones."""
    shape = {1: binary_dilation, -1: binary_erosion, 0: lambda mask: mask}
    masks = np.stack([shape[by](mask) for by, mask in zip(grow, capture.masks, strict=True)])
    normals = np.stack(
        [extended(n, m) for n, m in zip(capture.normals, capture.masks, strict=True)]
    )
    return replace(capture, masks=masks, normals=normals * masks[..., None])


def test_masks_that_are_too_large_or_small_are_found():
    """One more pixel along rows and columns: 1 to 0.7 pixels across the contour."""
    grow = [1, 0, -1, 0, 1, -1, 0, 1, 0, -1]
    solver, _ = refined(
        remasked(duck()[0], grow), cameras(), learn_poses=False, pixels=700, iterations=[2, 1, 5]
    )
    found = solver.state.offsets.numpy() / PIXEL
    np.testing.assert_allclose(found, 0.87 * np.array(grow), atol=0.3)


def swapped() -> Capture:
    """The normals and masks of views 2 and 7 are each other's."""
    capture, _ = duck()
    order = [0, 1, 7, 3, 4, 5, 6, 2, 8, 9]
    return replace(capture, normals=capture.normals[order], masks=capture.masks[order])


def test_views_that_fit_no_surface_are_refused():
    _, reports = refined(swapped(), wrong_poses(), pixels=500, iterations=[4, 1, 2])
    with pytest.raises(ConvergenceError, match=r"duck: the views do not fit one surface \(.*\)"):
        check_converged("duck", duck()[0].views, reports[-1])


def test_the_view_that_fits_worst_is_told():
    _, reports = refined(swapped(), cameras(), learn_poses=False, pixels=500, iterations=[4, 1, 2])
    assert reports[-1].worst_view in {2, 7}
    assert reports[-1].has_stray


GOOD = Report(
    iteration=22, cells=128, normal_residual_deg=5.0, contour_residual_px=0.3,
    worst_view=3, worst_normal_residual_deg=7.0, hit_fraction=0.99,
    rotation_change_deg=0.02, largest_rotation_change_deg=0.05, translation_change=1e-3,
    surface_change=1e-4, flattening=0.03, focal_factor=1.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"normal_residual_deg": 31.0}, "normals are 31 degrees off"),
        ({"worst_normal_residual_deg": 40.4}, "those of view 03 are 40"),
        ({"contour_residual_px": 7.25}, "contours are 7.2 pixels off"),
        ({"hit_fraction": 0.5}, "50% of the masks see no surface"),
        ({"largest_rotation_change_deg": 2.0}, "a camera still turns by 2.0 degrees"),
    ],
)
def test_reasons_of_a_refusal(wrong, reason):
    check_converged("duck", duck()[0].views, GOOD)
    with pytest.raises(ConvergenceError, match=reason):
        check_converged("duck", duck()[0].views, replace(GOOD, **wrong))
