"""Exact intersections of rays with analytic shapes."""

from typing import Any

import numpy as np
import pytest
import trimesh

from pmni.synthetic import shapes
from pmni.synthetic.analytic_surface import AnalyticSurface
from pmni.synthetic.camera_rig import intrinsics, turntable_poses
from pmni.synthetic.rendering import render
from pmni.synthetic.tessellation import tessellate


def analytic(shape: shapes.Shape, faces: int = 20_000) -> AnalyticSurface:
    return AnalyticSurface(tessellate(shape, 1.25, faces))


@pytest.fixture(scope="module")
def sphere_views() -> Any:
    """A sphere of radius 80 mm at the origin seen from (1500, 0, 0) and from the other side."""
    solid = tessellate(shapes.sphere((0, 0, 0), 80.0), 100.0, 20_000)
    c2w = turntable_poses(2, 0.0, 1500.0, 0.0, np.random.default_rng(0))
    return list(render(AnalyticSurface(solid), intrinsics(256, 306), c2w, 256, 306)), c2w


class TestSphere:
    def test_mask_distance_and_normals_are_the_formula(self, sphere_views: Any) -> None:
        for view, c2w in zip(*sphere_views, strict=True):
            rays = view.rays @ c2w[:3, :3].T
            along = rays @ c2w[:3, 3]
            discriminant = along**2 - (1500.0**2 - 80.0**2)
            np.testing.assert_array_equal(view.mask, discriminant > 0)
            expected = (-along - np.sqrt(np.maximum(discriminant, 0)))[view.mask]
            np.testing.assert_allclose(view.ray_distance[view.mask], expected, atol=1e-7)
            points = c2w[:3, 3] + expected[:, None] * rays[view.mask]
            world = view.normals[view.mask] @ c2w[:3, :3].T
            np.testing.assert_allclose(world, points / 80, atol=1e-7)

    def test_depth_is_along_the_axis(self, sphere_views: Any) -> None:
        (view, _), _ = sphere_views
        assert view.depth[127:129, 152:154].mean() == pytest.approx(1420, abs=0.1)
        np.testing.assert_allclose(view.depth, view.ray_distance * view.rays[..., 2])
        assert np.isnan(view.depth[~view.mask]).all()
        np.testing.assert_array_equal(view.normals[~view.mask], 0)

    def test_normals_are_in_the_camera_frame(self, sphere_views: Any) -> None:
        """x right, y down, z forward: those that face us point to -z, upper ones to -y."""
        (view, _), _ = sphere_views
        rows, columns = np.nonzero(view.mask)
        top, left = rows.argmin(), columns.argmin()
        assert view.normals[view.mask][top, 1] < -0.95
        assert view.normals[view.mask][left, 0] < -0.95
        assert (view.normals[view.mask] * view.rays[view.mask]).sum(1).max() < 0
        assert view.normals[127, 152, 2] == pytest.approx(-1, abs=1e-3)


class TestAnalyticRays:
    def test_exact_distances(self) -> None:
        surface = analytic(shapes.sphere((0, 0, 0), 0.5))
        height = np.linspace(0, 0.4999, 200)
        origins = np.stack([np.full(200, 3.0), height, np.zeros(200)], 1)
        distances, normals = surface.trace(origins, np.tile([-1.0, 0, 0], (200, 1)))
        half = np.sqrt(0.25 - height**2)
        np.testing.assert_allclose(distances, 3 - half, atol=1e-9)
        np.testing.assert_allclose(normals, np.stack([half, height, 0 * half], 1) * 2, atol=1e-7)

    def test_rays_that_graze_from_outside_miss(self) -> None:
        surface = analytic(shapes.sphere((0, 0, 0), 0.5))
        height = 0.5 + np.array([1e-9, 1e-7, 1e-5, 1e-3, 1.0])
        origins = np.stack([np.full(5, 3.0), height, np.zeros(5)], 1)
        distances, _ = surface.trace(origins, np.tile([-1.0, 0, 0], (5, 1)))
        assert np.isnan(distances).all()

    def test_a_plate_much_thinner_than_the_grid_is_not_skipped(self) -> None:
        ball = shapes.sphere((-0.6, 0, 0), 0.4)
        plate = shapes.box((1e-4, 0.5, 0.5), 5e-5)
        surface = analytic(shapes.union(ball, shapes.transformed(plate, (0.3, 0, 0)), blend=1e-5))
        rng = np.random.default_rng(0)
        across = rng.uniform(-0.49, 0.49, (500, 2))
        origins = np.insert(across, 0, 3.0, axis=1)
        distances, _ = surface.trace(origins, np.tile([-1.0, 0, 0], (500, 1)))
        np.testing.assert_allclose(distances, 3 - 0.3 - 1e-4, atol=1e-9)

    def test_the_nearest_of_many_is_hit(self) -> None:
        many = shapes.spheres(
            np.stack([np.linspace(-1, 1, 9), np.zeros(9), np.zeros(9)], 1), np.full(9, 0.05), 1e-4
        )
        surface = analytic(many)
        away = np.array([[4.0, 0, 0], [-4, 0, 0]])
        distances, normals = surface.trace(away, -away / 4)
        np.testing.assert_allclose(distances, 3 - 0.05, atol=1e-9)
        np.testing.assert_allclose(normals, away / 4, atol=1e-6)

    def test_rays_along_the_axes_and_away(self) -> None:
        surface = analytic(shapes.box((0.5, 0.4, 0.3), 0.1))
        origins = 2 * np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]])
        directions = np.array([[-1.0, 0, 0], [0, -1, 0], [0, 0, -1], [1, 0, 0], [0, 1, 0]])
        distances, _ = surface.trace(origins, directions)
        np.testing.assert_allclose(distances, [1.5, 1.6, 1.7, np.nan, np.nan], atol=1e-9)

    def test_no_rays(self) -> None:
        distances, normals = analytic(shapes.sphere((0, 0, 0), 0.5)).trace(*np.zeros((2, 0, 3)))
        assert distances.shape == (0,)
        assert normals.shape == (0, 3)

    def test_clearance_never_reaches_the_surface(self) -> None:
        wavy = shapes.displaced(
            shapes.sphere((0, 0, 0), 0.6), lambda x, y, z: 0.02 * np.sin(30 * x), 0.6
        )
        solid = tessellate(wavy, 1.25, 20_000)
        grid = solid.free_space
        cells = np.argwhere(grid.free > 0)
        cells = cells[np.random.default_rng(1).choice(len(cells), 2000)]
        nearest = trimesh.Trimesh(solid.mesh.vertices, solid.mesh.faces).kdtree
        centres = grid.corner + (cells + 0.5) * grid.spacing
        free = grid.free[tuple(cells.T)] + grid.spacing * np.sqrt(3) / 2
        assert (nearest.query(centres)[0] > free - 1e-3).all()

    def test_a_shape_that_is_not_there(self) -> None:
        with pytest.raises(ValueError, match="no surface"):
            tessellate(shapes.sphere((5, 0, 0), 0.5), 1.25, 20_000)
