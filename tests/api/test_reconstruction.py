"""A reconstruction answers in the units of its dataset, and is the same after it was saved."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.analytic_sdfs import sphere

import pmni
from pmni.errors import InputError
from pmni.geometry.cameras import look_at
from pmni.sdf.narrow_band import resample

RADIUS, SCALE, OFFSET = 0.5, 100.0, np.array([10.0, -20.0, 30.0])
K = np.array([[300.0, 0, 31.5], [0, 300.0, 23.5], [0, 0, 1]])


@pytest.fixture(scope="module")
def ball() -> pmni.Reconstruction:
    """A ball of radius 50 mm about OFFSET, seen by two cameras at a distance of 600 mm."""
    surface = resample(sphere(RADIUS), 128, torch.device("cpu"), sweeps=0)
    cameras = {
        view: pmni.Camera(K, look_at(OFFSET + position, OFFSET), 64, 48)
        for view, position in {"a": np.array([600.0, 0, 0]), "b": np.array([0, 600.0, 0])}.items()
    }
    mesh = pmni.extract_mesh(surface, scale=SCALE, offset=OFFSET)
    return pmni.Reconstruction("ball", mesh, cameras, surface, SCALE, OFFSET)


def test_distances_and_normals_are_those_of_the_ball(ball: pmni.Reconstruction) -> None:
    directions = np.array([[1.0, 0, 0], [0, 0.6, -0.8], [-0.48, 0.6, 0.64]])
    for distance in (-2.0, 0.0, 2.0):
        points = OFFSET + (50 + distance) * directions
        np.testing.assert_allclose(ball.sdf(points), distance, atol=0.02)
    np.testing.assert_allclose(ball.normals(OFFSET + 50 * directions), directions, atol=0.01)
    assert ball.sdf(points[None, :2]).shape == (1, 2)


def test_outside_the_cube_the_distance_from_it_is_added(ball: pmni.Reconstruction) -> None:
    edge, beyond = (OFFSET + np.array([x, 0, 0]) for x in (SCALE, SCALE + 70))
    np.testing.assert_allclose(ball.sdf(beyond), ball.sdf(edge) + 70, rtol=1e-5)


def test_mesh_is_in_dataset_units(ball: pmni.Reconstruction) -> None:
    radius = np.linalg.norm(ball.mesh.vertices - OFFSET, axis=1)
    np.testing.assert_allclose(radius, 50, atol=0.05)


def test_rendering_sees_the_ball(ball: pmni.Reconstruction) -> None:
    view = ball.render("a")
    assert view.normals.shape == (48, 64, 3)
    centre = view.ray_distance[23:25, 31:33]
    np.testing.assert_allclose(centre, 550, atol=0.2)
    np.testing.assert_allclose(view.normals[23, 31], [0, 0, -1], atol=0.02)
    # the contour is a circle about the principal point: f tan(asin(r / d))
    radius = 300 * np.tan(np.arcsin(50 / 600))
    assert view.mask.sum() == pytest.approx(np.pi * radius**2, rel=0.02)
    assert not view.normals[~view.mask].any()
    above = look_at(OFFSET + np.array([0, 0, 300.0]), OFFSET, up=(0.0, 1.0, 0.0))
    nearer = pmni.Camera(K, above, 64, 48)
    np.testing.assert_allclose(ball.render(nearer).ray_distance[23, 31], 250, atol=0.2)
    with pytest.raises(InputError, match="no view 'c'; views are a, b"):
        ball.render("c")


def test_poses_are_those_of_the_normalised_world(ball: pmni.Reconstruction) -> None:
    np.testing.assert_allclose(ball.poses.c2w[0, :3, 3], [6, 0, 0], atol=1e-12)


def test_saving_and_loading(ball: pmni.Reconstruction, tmp_path: Path) -> None:
    ball.save(tmp_path / "ball")
    again = pmni.Reconstruction.load(tmp_path / "ball")
    points = OFFSET + np.random.default_rng(0).uniform(-90, 90, (1000, 3))
    np.testing.assert_array_equal(again.sdf(points), ball.sdf(points))
    np.testing.assert_allclose(again.mesh.vertices, ball.mesh.vertices, atol=1e-5)
    assert list(again.cameras) == ["a", "b"]
    np.testing.assert_array_equal(again.cameras["b"].c2w, ball.cameras["b"].c2w)
    np.testing.assert_array_equal(again.cameras["b"].intrinsics, K)
    assert (again.scale, again.name) == (SCALE, "ball")


def test_a_folder_without_a_reconstruction(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a saved reconstruction nor results"):
        pmni.Reconstruction.load(tmp_path)
