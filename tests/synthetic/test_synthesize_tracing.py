"""Rays against spheres, plates and cubes, worked out by hand."""

import numpy as np
import pytest
import trimesh

from pmni.errors import InputError
from pmni.geometry.mesh import Mesh
from pmni.synthetic import shapes
from pmni.synthetic.analytic_surface import AnalyticSurface
from pmni.synthetic.camera_rig import intrinsics, turntable_poses
from pmni.synthetic.mesh_surface import MeshSurface, load_mesh
from pmni.synthetic.rendering import render
from pmni.synthetic.tessellation import fit_to_sphere, project_to_surface, tessellate


def analytic(shape: shapes.Shape, faces: int = 20_000) -> AnalyticSurface:
    return AnalyticSurface(tessellate(shape, 1.25, faces))


def mesh_surface(mesh: trimesh.Trimesh) -> MeshSurface:
    return MeshSurface(Mesh(mesh.vertices, mesh.faces, None, np.array(mesh.vertex_normals)))


@pytest.fixture(scope="module")
def sphere_views():
    """A sphere of radius 80 mm at the origin seen from (1500, 0, 0) and from the other side."""
    solid = tessellate(shapes.sphere((0, 0, 0), 80.0), 100.0, 20_000)
    c2w = turntable_poses(2, 0.0, 1500.0, 0.0, np.random.default_rng(0))
    return list(render(AnalyticSurface(solid), intrinsics(256, 306), c2w, 256, 306)), c2w


class TestSphere:
    def test_mask_distance_and_normals_are_the_formula(self, sphere_views):
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

    def test_depth_is_along_the_axis(self, sphere_views):
        (view, _), _ = sphere_views
        assert view.depth[127:129, 152:154].mean() == pytest.approx(1420, abs=0.1)
        np.testing.assert_allclose(view.depth, view.ray_distance * view.rays[..., 2])
        assert np.isnan(view.depth[~view.mask]).all()
        np.testing.assert_array_equal(view.normals[~view.mask], 0)

    def test_normals_are_in_the_camera_frame(self, sphere_views):
        """x right, y down, z forward: those that face us point to -z, upper ones to -y."""
        (view, _), _ = sphere_views
        rows, columns = np.nonzero(view.mask)
        top, left = rows.argmin(), columns.argmin()
        assert view.normals[view.mask][top, 1] < -0.95
        assert view.normals[view.mask][left, 0] < -0.95
        assert (view.normals[view.mask] * view.rays[view.mask]).sum(1).max() < 0
        assert view.normals[127, 152, 2] == pytest.approx(-1, abs=1e-3)


class TestAnalyticRays:
    def test_exact_distances(self):
        surface = analytic(shapes.sphere((0, 0, 0), 0.5))
        height = np.linspace(0, 0.4999, 200)
        origins = np.stack([np.full(200, 3.0), height, np.zeros(200)], 1)
        distances, normals = surface.trace(origins, np.tile([-1.0, 0, 0], (200, 1)))
        half = np.sqrt(0.25 - height**2)
        np.testing.assert_allclose(distances, 3 - half, atol=1e-9)
        np.testing.assert_allclose(normals, np.stack([half, height, 0 * half], 1) * 2, atol=1e-7)

    def test_rays_that_graze_from_outside_miss(self):
        surface = analytic(shapes.sphere((0, 0, 0), 0.5))
        height = 0.5 + np.array([1e-9, 1e-7, 1e-5, 1e-3, 1.0])
        origins = np.stack([np.full(5, 3.0), height, np.zeros(5)], 1)
        distances, _ = surface.trace(origins, np.tile([-1.0, 0, 0], (5, 1)))
        assert np.isnan(distances).all()

    def test_a_plate_much_thinner_than_the_grid_is_not_skipped(self):
        ball = shapes.sphere((-0.6, 0, 0), 0.4)
        plate = shapes.box((1e-4, 0.5, 0.5), 5e-5)
        surface = analytic(shapes.union(ball, shapes.transformed(plate, (0.3, 0, 0)), blend=1e-5))
        rng = np.random.default_rng(0)
        across = rng.uniform(-0.49, 0.49, (500, 2))
        origins = np.insert(across, 0, 3.0, axis=1)
        distances, _ = surface.trace(origins, np.tile([-1.0, 0, 0], (500, 1)))
        np.testing.assert_allclose(distances, 3 - 0.3 - 1e-4, atol=1e-9)

    def test_the_nearest_of_many_is_hit(self):
        many = shapes.spheres(
            np.stack([np.linspace(-1, 1, 9), np.zeros(9), np.zeros(9)], 1), np.full(9, 0.05), 1e-4
        )
        surface = analytic(many)
        away = np.array([[4.0, 0, 0], [-4, 0, 0]])
        distances, normals = surface.trace(away, -away / 4)
        np.testing.assert_allclose(distances, 3 - 0.05, atol=1e-9)
        np.testing.assert_allclose(normals, away / 4, atol=1e-6)

    def test_rays_along_the_axes_and_away(self):
        surface = analytic(shapes.box((0.5, 0.4, 0.3), 0.1))
        origins = 2 * np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]])
        directions = np.array([[-1.0, 0, 0], [0, -1, 0], [0, 0, -1], [1, 0, 0], [0, 1, 0]])
        distances, _ = surface.trace(origins, directions)
        np.testing.assert_allclose(distances, [1.5, 1.6, 1.7, np.nan, np.nan], atol=1e-9)

    def test_no_rays(self):
        distances, normals = analytic(shapes.sphere((0, 0, 0), 0.5)).trace(*np.zeros((2, 0, 3)))
        assert distances.shape == (0,)
        assert normals.shape == (0, 3)

    def test_clearance_never_reaches_the_surface(self):
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

    def test_a_shape_that_is_not_there(self):
        with pytest.raises(ValueError, match="no surface"):
            tessellate(shapes.sphere((5, 0, 0), 0.5), 1.25, 20_000)


class TestOntoSurface:
    def test_points_land_on_a_sphere(self):
        ball = shapes.sphere((0, 0, 0), 0.5)
        start = np.random.default_rng(0).normal(size=(100, 3))
        start *= (0.5 + 0.02 * start[:, :1]) / np.linalg.norm(start, axis=1, keepdims=True)
        end = project_to_surface(ball, start, 0.1)
        assert np.abs(ball(end)).max() < 1e-9
        assert np.linalg.norm(end - start, axis=1).max() < 0.07


class TestMeshRays:
    def test_exact_on_a_cube(self):
        surface = mesh_surface(trimesh.creation.box((2, 2, 2)))
        across = np.random.default_rng(0).uniform(-0.99, 0.99, (300, 2))
        origins = np.insert(across, 1, 1500.0, axis=1)
        distances, _ = surface.trace(origins, np.tile([0.0, -1, 0], (300, 1)))
        np.testing.assert_allclose(distances, 1499.0, atol=1e-9)
        origins[:, 0] += 3
        distances, normals = surface.trace(origins, np.tile([0.0, -1, 0], (300, 1)))
        assert np.isnan(distances).all()
        np.testing.assert_array_equal(normals, 0)

    def test_slanted_rays_hit_the_plane_exactly(self):
        """Single precision would be 1e-4 off at this distance."""
        surface = mesh_surface(trimesh.creation.box((160, 160, 160)))
        rng = np.random.default_rng(1)
        targets = np.insert(rng.uniform(-79, 79, (300, 2)), 2, 80.0, axis=1)
        origins = targets + np.array([700.0, 300.0, 1300.0])
        directions = np.array([-700.0, -300.0, -1300.0]) / np.linalg.norm([700, 300, 1300])
        distances, _ = surface.trace(origins, np.tile(directions, (300, 1)))
        np.testing.assert_allclose(distances, np.linalg.norm([700, 300, 1300]), atol=1e-9)

    def test_normals_are_smooth_and_face_the_viewer(self):
        surface = mesh_surface(trimesh.creation.icosphere(subdivisions=4, radius=10.0))
        across = np.random.default_rng(2).uniform(-7, 7, (500, 2))
        origins = np.insert(across, 2, 100.0, axis=1)
        down = np.tile([0.0, 0, -1], (500, 1))
        distances, normals = surface.trace(origins, down)
        points = origins + distances[:, None] * down
        np.testing.assert_allclose(normals, points / 10, atol=5e-3)
        assert (normals[:, 2] > 0).all()

    def test_the_back_of_an_open_surface_is_turned_round(self):
        sheet = trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [0, 1, 0]], [[0, 1, 2]])
        ends = np.array([[0.0, 0, 5], [0, 0, -5]])
        distances, normals = mesh_surface(sheet).trace(ends, -ends / 5)
        np.testing.assert_allclose(distances, 5)
        np.testing.assert_allclose(normals, ends / 5, atol=1e-5)


class TestLoadMesh:
    def write(self, path, mesh) -> object:
        mesh.export(path)
        return path

    def test_is_centred_scaled_and_turned_upright(self, tmp_path):
        cone = trimesh.creation.cone(radius=1.0, height=4.0)  # its tip at +z
        cone.apply_translation([5, 6, 7])
        for up, order in (("z", [0, 1, 2]), ("y", [1, 2, 0]), ("x", [2, 0, 1])):
            turned = trimesh.Trimesh(cone.vertices[:, order], cone.faces, process=False)
            mesh = load_mesh(self.write(tmp_path / f"{up}.ply", turned), up, 80.0)
            tip = mesh.vertices[mesh.vertices[:, 2].argmax()]
            np.testing.assert_allclose(tip[:2], 0, atol=1e-4)
            assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(80)
            np.testing.assert_allclose(mesh.vertices.min(0), -mesh.vertices.max(0), atol=1e-4)
            assert trimesh.Trimesh(mesh.vertices, mesh.faces).volume > 0
            at_tip = np.linalg.norm(mesh.vertices - tip, axis=1) < 1e-3
            assert mesh.normals[at_tip].mean(0)[2] > 0.9

    def test_split_vertices_are_joined_and_slivers_dropped(self, tmp_path):
        ball = trimesh.creation.icosphere(subdivisions=2)
        split = trimesh.Trimesh(ball.vertices[ball.faces].reshape(-1, 3), process=False)
        faces = np.arange(len(split.vertices)).reshape(-1, 3)
        faces = np.concatenate([faces, [[0, 0, 1]]])
        split = trimesh.Trimesh(split.vertices, faces, process=False)
        mesh = load_mesh(self.write(tmp_path / "split.ply", split), "z", 1.0)
        assert len(mesh.vertices) == len(ball.vertices)
        assert len(mesh.faces) == len(ball.faces)
        np.testing.assert_allclose(mesh.normals, mesh.vertices, atol=0.02)

    def test_a_mesh_inside_out_is_turned(self, tmp_path):
        ball = trimesh.creation.icosphere(subdivisions=2)
        ball.invert()
        mesh = load_mesh(self.write(tmp_path / "inverted.ply", ball), "z", 1.0)
        assert (mesh.normals * mesh.vertices).sum(1).min() > 0.9

    def test_subdivision(self, tmp_path):
        path = self.write(tmp_path / "ball.ply", trimesh.creation.icosphere(subdivisions=2))
        assert len(load_mesh(path, "z", 1.0, subdivide=2).faces) == 320 * 16

    def test_faults_are_named(self, tmp_path):
        with pytest.raises(InputError, match=r"none\.ply: no such mesh file"):
            load_mesh(tmp_path / "none.ply", "z", 1.0)
        (tmp_path / "empty.obj").write_text("")
        with pytest.raises(InputError, match=r"empty\.obj: has no triangles"):
            load_mesh(tmp_path / "empty.obj", "z", 1.0)
        (tmp_path / "text.ply").write_text("hello")
        with pytest.raises(InputError, match=r"text\.ply: cannot be read as a mesh"):
            load_mesh(tmp_path / "text.ply", "z", 1.0)
        flat = trimesh.Trimesh(np.zeros((3, 3)), [[0, 1, 2]], process=False)
        with pytest.raises(InputError, match="degenerate"):
            load_mesh(self.write(tmp_path / "flat.ply", flat), "z", 1.0)
        broken = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, np.nan, 0]], [[0, 1, 2]], process=False)
        with pytest.raises(InputError, match="not finite"):
            load_mesh(self.write(tmp_path / "nan.ply", broken), "z", 1.0)


def test_fit_by_hand():
    centre, factor = fit_to_sphere(np.array([[0.0, 0, 0], [2, 0, 0], [0, 4, 4]]), 6.0)
    np.testing.assert_allclose(centre, [1, 2, 2])
    assert factor == pytest.approx(2)
