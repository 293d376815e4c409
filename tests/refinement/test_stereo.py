"""Stereo on normal maps of a sphere with bumps, exact and drawn towards the camera."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import trimesh
from fixtures.refinement import CPU, observations_of
from torch import Tensor

from pmni.config.refinement import RefineSettings, StereoSettings
from pmni.data.capture import Capture
from pmni.geometry.cameras import look_at
from pmni.geometry.mesh import Mesh
from pmni.refinement.solver import GaussNewtonSolver
from pmni.refinement.state import VIEW_UNKNOWNS, Increment, State
from pmni.refinement.stereo import (
    NormalImages,
    StereoPoints,
    count_agreeing,
    match_views,
    neighbours,
    stereo_residuals,
    sweep,
)
from pmni.sdf.grid import GridSDF, grid_nodes
from pmni.sdf.narrow_band import NarrowBandSDF, resample
from pmni.synthetic.mesh_surface import MeshSurface
from pmni.synthetic.rendering import render

VIEWS, HEIGHT, WIDTH, DISTANCE = 12, 120, 128, 6.0
K = np.array([[400.0, 0, 63.5], [0, 400.0, 59.5], [0, 0, 1]])
PIXEL = DISTANCE / 400
"""Width of a pixel at the object, normalised units."""
SETTINGS = StereoSettings(reduction=1, reduction_local=1)
FLATTENING = 0.6
"""Factor of the slopes of normals that are drawn towards the camera."""


def cameras() -> np.ndarray:
    """Poses on a circle around the object, 30 degrees apart."""
    azimuth = 2 * np.pi * np.arange(VIEWS) / VIEWS
    positions = np.stack([np.cos(azimuth), np.sin(azimuth), 0.4 + 0 * azimuth], axis=-1)
    positions *= DISTANCE / np.linalg.norm(positions, axis=-1, keepdims=True)
    return np.stack([look_at(position, np.zeros(3)) for position in positions])


def radius(direction: np.ndarray) -> np.ndarray:
    """Distance of the surface from the origin in directions (unit vectors): bumps and a bowl."""
    bumps = np.sin(9 * direction + np.array([0.3, 1.1, 2.0])).prod(-1)
    bowl = np.exp(-(np.arccos(direction[:, 0].clip(-1, 1)) ** 2) / (2 * 0.35**2))
    return 0.75 + 0.04 * bumps - 0.3 * bowl


@cache
def bumpy_sphere() -> Mesh:
    """A sphere with bumps, and a concavity whose ground is 0.25 below the visual hull."""
    sphere = trimesh.creation.icosphere(subdivisions=5, radius=1.0)
    unit = np.asarray(sphere.vertices)
    vertices = unit * radius(unit)[:, None]
    shaped = trimesh.Trimesh(vertices, sphere.faces, process=False)
    return Mesh(vertices, np.asarray(sphere.faces), None, np.array(shaped.vertex_normals))


@cache
def rendered() -> tuple[Capture, np.ndarray]:
    """The exact capture, and the ray distances of its pixels (NaN beside the object)."""
    images = list(render(MeshSurface(bumpy_sphere()), K, cameras(), HEIGHT, WIDTH))
    capture = Capture(
        normals=np.stack([image.normals for image in images]),
        masks=np.stack([image.mask for image in images]),
        intrinsics=K,
        reference_c2w=cameras(),
    )
    return capture, np.stack([image.ray_distance for image in images])


def drawn_to_the_camera(capture: Capture) -> Capture:
    """The capture with slopes that are too small by one factor in all views."""
    normals = capture.normals * np.float32([FLATTENING, FLATTENING, 1])
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return replace(capture, normals=normals / np.maximum(length, 1e-6))


def round_start() -> State:
    """A sphere that holds the object, and the true poses."""
    nodes = grid_nodes(65, CPU)
    values = torch.linalg.vector_norm(nodes, dim=-1) - 0.8
    surface = resample(GridSDF(values), 64, CPU, sweeps=0)
    return State.start(surface, torch.from_numpy(cameras()))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("flattened", [False, True])
def test_distances_are_right_whatever_all_normals_have_in_common(flattened: bool) -> None:
    capture, expected = rendered()
    observations = observations_of(drawn_to_the_camera(capture) if flattened else capture)
    state = round_start()
    images = NormalImages.of(observations, state, 1, SETTINGS.detail_px)
    for view in (0, 5):
        distance = sweep(images, state, view, PIXEL, SETTINGS, local=False).numpy()
        error = np.abs(distance - expected[view])[capture.masks[view]] / PIXEL
        assert np.nanmedian(error) < (1.3 if flattened else 0.8)
        assert np.nanquantile(error, 0.8) < 3


def test_a_local_sweep_starts_from_the_surface() -> None:
    """Which is some pixels outside the object, and far outside the concavity."""
    capture, expected = rendered()
    state = round_start()
    images = NormalImages.of(observations_of(capture), state, 1, SETTINGS.detail_px)
    distance = sweep(images, state, 6, PIXEL, SETTINGS, local=True).numpy()
    error = np.abs(distance - expected[6])[capture.masks[6]] / PIXEL
    assert np.nanmedian(error) < 0.8
    few = SETTINGS.model_copy(update={"local_steps": 2})
    distance = sweep(images, state, 0, PIXEL, few, local=True).numpy()
    beyond = expected[0] - (DISTANCE - 0.8) > 0.2
    assert beyond.sum() > 100
    assert np.isnan(distance[beyond]).mean() > 0.5


def test_averaged_images_have_the_rays_of_their_squares() -> None:
    capture, _ = rendered()
    observations, state = observations_of(capture), round_start()
    full = NormalImages.of(observations, state, 1, 3.0)
    half = NormalImages.of(observations, state, 2, 3.0)
    assert half.normals.shape == (VIEWS, HEIGHT // 2, WIDTH // 2, 3)
    rays = full.rays(3, slice(0, HEIGHT), slice(0, WIDTH))
    corner = rays[10:12, 20:22].mean((0, 1))
    ray = half.rays(3, slice(5, 6), slice(10, 11))[0, 0]
    assert torch.linalg.cross(corner / corner.norm(), ray).norm() < 1e-6
    uv, distance = half.project(torch.tensor([3]), half.centres[3] + 4.0 * ray[None])
    assert uv[0, 0].tolist() == pytest.approx([10, 5], abs=1e-3)
    assert float(distance) == pytest.approx(4, abs=1e-5)


def test_neighbours_are_the_nearest_views_within_the_angles() -> None:
    capture, _ = rendered()
    images = NormalImages.of(observations_of(capture), round_start(), 1, 3.0)
    chosen = SETTINGS.model_copy(update={"max_angle_deg": 60.0, "neighbours": 3})
    found = neighbours(images, 0, chosen).tolist()
    assert set(found[:2]) == {1, 11}
    assert found[2] in (2, 10)
    assert len(neighbours(images, 0, chosen.model_copy(update={"max_angle_deg": 10.0}))) == 0


def test_views_agree_on_true_distances_only() -> None:
    capture, expected = rendered()
    images = NormalImages.of(observations_of(capture), round_start(), 1, 3.0)
    distance = torch.from_numpy(expected).float()
    agreeing = count_agreeing(images, distance, 1.5 * PIXEL, SETTINGS)
    mask = torch.from_numpy(capture.masks)
    assert (agreeing[mask] >= 1).float().mean() > 0.95
    wrong = distance.clone()
    wrong[4] += 10 * PIXEL
    assert (count_agreeing(images, wrong, 1.5 * PIXEL, SETTINGS)[4] > 0).float().mean() < 0.05
    assert (agreeing[~mask] == 0).all()


def test_points_lie_on_the_surface() -> None:
    capture, _ = rendered()
    observations, state = observations_of(drawn_to_the_camera(capture)), round_start()
    coarse = SETTINGS.model_copy(update={"step_px": 2.0})
    stereo = match_views(observations, state, coarse, False, generator())
    assert 0.1 < stereo.valid.float().mean() < 1
    world = stereo.points @ state.rotations.float().mT + state.centres.float()[:, None]
    points = world[stereo.valid].numpy()[::40]
    length = np.linalg.norm(points, axis=-1)
    error = np.abs(length - radius(points / length[:, None])) / PIXEL
    assert np.median(error) < 0.6
    assert np.quantile(error, 0.9) < 1.5


def test_derivatives_of_the_residuals() -> None:
    """By the poses and by the surface: of r = -f, by finite differences."""
    state = round_start()
    rng = np.random.default_rng(2)
    unit = torch.from_numpy(rng.normal(size=(VIEWS, 40, 3))).float()
    world = 0.8 * unit / unit.norm(dim=-1, keepdim=True)
    R, C = state.rotations.float(), state.centres.float()
    points = (world - C[:, None]) @ R
    valid = torch.ones(VIEWS, 40, dtype=torch.bool)
    index = torch.arange(40).expand(VIEWS, 40)

    def residual(changed: State) -> Tensor:
        return stereo_residuals(changed, StereoPoints(points, valid), index).value[:, 0]

    r = stereo_residuals(state, StereoPoints(points, valid), index)
    assert r.value.abs().max() < 0.002  # a chord of the cells
    surface = state.surface
    zero = Increment(
        torch.zeros(len(surface.grid)), torch.zeros(VIEWS, VIEW_UNKNOWNS), r.value[:2, 0]
    )
    for column in range(6):
        ends = []
        for step in (0.02, -0.02):
            views = zero.views.clone()
            views[:, column] = step
            ends.append(
                residual(state.retract_views(replace(zero, views=views, shared=torch.zeros(2))))
            )
        expected = (ends[0] - ends[1]) / 0.04
        assert (r.view_jacobian[:, 0, column] - expected).abs().max() < 0.04
        assert expected.abs().max() > 0.1 or column < 3  # a sphere turns into itself
    u = torch.from_numpy(rng.normal(size=len(surface.grid))).float()
    moved = NarrowBandSDF(surface.grid, surface.values + 0.1 * u, surface.background)
    change = residual(replace(state, surface=moved)) - r.value[:, 0]
    assert torch.allclose(change, -0.1 * (r.weights[:, 0] * u[r.nodes]).sum(-1), atol=1e-6)


def test_points_where_no_views_agree_do_not_count() -> None:
    state = round_start()
    valid = torch.zeros(VIEWS, 5, dtype=torch.bool)
    valid[3] = True
    points = torch.zeros(VIEWS, 5, 3)
    points[..., 2] = DISTANCE - 0.8
    r = stereo_residuals(state, StereoPoints(points, valid), torch.arange(5).expand(VIEWS, 5))
    assert r.valid.view(VIEWS, 5).sum(1).tolist() == [0, 0, 0, 5] + [0] * 8


def test_the_surface_moves_to_the_points_where_normals_say_nothing() -> None:
    """All normals are turned to their camera; the points have the true distances."""
    capture, distances = rendered()
    blank = replace(capture, normals=np.where(capture.normals != 0, np.float32([0, 0, -1]), 0))
    settings = RefineSettings.parse(
        {"cells": 64, "learn_poses": False, "pixels": 500, "conjugate_gradients": 20}, "test"
    )
    start = round_start()
    c2w = torch.from_numpy(cameras())
    solver = GaussNewtonSolver(observations_of(blank), start.surface.background, c2w, settings)
    images = NormalImages.of(solver.observations, start, 1, 3.0)
    points = torch.zeros(VIEWS, 3000, 3)
    for view, mask in enumerate(capture.masks):
        v, u = np.nonzero(mask)
        pick = np.random.default_rng(view).integers(len(v), size=3000)
        rays = images.rays(view, slice(0, HEIGHT), slice(0, WIDTH))[v[pick], u[pick]]
        lengths = torch.from_numpy(distances[view, v[pick], u[pick], None]).float()
        points[view] = rays @ images.rotations[view] * lengths
    solver.stereo = StereoPoints(points, torch.ones(VIEWS, 3000, dtype=torch.bool))
    with torch.no_grad():
        for _ in range(5):
            solver.step(64)
    vertices = torch.from_numpy(bumpy_sphere().vertices[::7]).float()
    error = solver.state.surface(vertices).abs() / PIXEL
    assert error.median() < 0.5
