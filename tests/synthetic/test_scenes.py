"""The analytic scenes: exact meshes, exact rays, and shapes that determine camera poses."""

from functools import cache

import numpy as np
import pytest
import trimesh

from pmni.synthetic.analytic_surface import AnalyticSurface
from pmni.synthetic.camera_rig import intrinsics, turntable_poses
from pmni.synthetic.mesh_surface import MeshSurface
from pmni.synthetic.noise import angle_between
from pmni.synthetic.rendering import render
from pmni.synthetic.scenes import HALF_SIDE, SCENES
from pmni.synthetic.shapes import normalised, rotation
from pmni.synthetic.tessellation import TessellatedShape, tessellate

RADIUS = 80.0
FACES = 80_000
every_scene = pytest.mark.parametrize("name", SCENES)


@cache
def solid(name: str) -> TessellatedShape:
    return tessellate(SCENES[name](), HALF_SIDE, FACES).scaled_to(RADIUS)


def on_surface(name: str, count: int, seed: int) -> np.ndarray:
    """Points spread over the mesh's triangles."""
    mesh = solid(name).mesh
    faces = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    return np.asarray(trimesh.sample.sample_surface(faces, count, seed=seed)[0])


class TestMesh:
    @every_scene
    def test_is_one_closed_piece_of_the_size_asked_for(self, name: str) -> None:
        mesh = solid(name).mesh
        surface = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
        assert surface.is_watertight
        assert surface.is_winding_consistent
        assert surface.volume > 0
        assert surface.body_count == 1
        assert 0.9 * FACES < len(mesh.faces) < 1.1 * FACES
        assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(RADIUS)
        np.testing.assert_allclose(mesh.vertices.min(0), -mesh.vertices.max(0), atol=1e-9)

    @every_scene
    def test_has_its_vertices_and_normals_on_the_exact_surface(self, name: str) -> None:
        shape, mesh = solid(name).shape, solid(name).mesh
        assert np.abs(shape(mesh.vertices)).max() < 1e-7
        outside = shape(mesh.vertices + 1e-3 * mesh.normals)
        inside = shape(mesh.vertices - 1e-3 * mesh.normals)
        assert (outside > 0).mean() > 0.999  # not where a seam runs through the vertex
        assert (inside < 0).mean() > 0.999
        np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-12)

    @every_scene
    def test_is_close_to_the_exact_surface_between_vertices(self, name: str) -> None:
        shape = solid(name).shape
        points = on_surface(name, 5000, 0)
        slope = np.linalg.norm(shape.gradient(points), axis=1)
        distance = np.abs(shape(points)) / np.maximum(slope, 0.3)
        assert distance.mean() < 0.02

    def test_halves_its_error_with_twice_the_triangles(self) -> None:
        def error(faces: int) -> float:
            fine = tessellate(SCENES["blob"](), HALF_SIDE, faces).scaled_to(RADIUS)
            return float(np.abs(fine.shape(fine.mesh.vertices[fine.mesh.faces].mean(1))).mean())

        assert error(160_000) / error(80_000) == pytest.approx(0.5, abs=0.1)


class TestShape:
    @every_scene
    def test_keeps_its_lipschitz_bound_at_the_surface(self, name: str) -> None:
        """There the relief is, and there the bound matters."""
        shape = solid(name).shape
        rng = np.random.default_rng(0)
        points = on_surface(name, 10_000, 1)
        points += rng.normal(size=(10_000, 3)) * rng.choice([0.01, 1.0, 5.0], (10_000, 1))
        slope = np.linalg.norm(shape.gradient(points), axis=1).max()
        assert slope < shape.lipschitz * (1 + 1e-7)
        assert slope > 0.6 * shape.lipschitz  # or tracing is slow for nothing

    @every_scene
    def test_lies_well_inside_its_cube(self, name: str) -> None:
        side = np.linspace(-HALF_SIDE, HALF_SIDE, 40)
        grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
        shape = SCENES[name]()
        for axis in range(3):
            for end in (-HALF_SIDE, HALF_SIDE):
                assert shape(np.insert(grid, axis, end, axis=1)).min() > 0.1

    @every_scene
    def test_looks_different_from_every_side(self, name: str) -> None:
        """Turned about the vertical or mirrored, the surface is somewhere else: by millimetres,
        or for the pot, which is nearly a body of revolution, by its relief and its handle."""
        shape, points = solid(name).shape, on_surface(name, 2000, 2)
        mirror = np.diag([1.0, -1.0, 1.0])
        turns = [rotation((0, 0, 1), degrees) for degrees in range(15, 360, 15)]
        mirrors = [mirror @ rotation((0, 0, 1), degrees) for degrees in range(0, 360, 15)]
        apart = [np.abs(shape(points @ turn.T)).mean() for turn in turns + mirrors]
        if name == "pot":
            assert 0.15 < min(apart) < max(apart) < 0.8
        else:
            assert min(apart) > 1.0

    def test_of_the_heron_has_thin_parts(self) -> None:
        """A good part of its surface is within a few millimetres of the other side."""

        def thin(name: str) -> float:
            points, shape = on_surface(name, 4000, 3), solid(name).shape
            return float((shape(points - 5 * normalised(shape.gradient(points))) > 0).mean())

        assert thin("heron") > 0.12
        assert thin("blob") == 0

    def test_of_the_shell_is_concave(self) -> None:
        """Little of its convex hull is filled."""
        mesh = trimesh.Trimesh(solid("shell").mesh.vertices, solid("shell").mesh.faces)
        assert mesh.volume < 0.25 * mesh.convex_hull.volume


class TestRays:
    @every_scene
    def test_find_the_first_crossing(self, name: str) -> None:
        """Against values at 2,000 places along each ray."""
        shape = solid(name).shape
        rng = np.random.default_rng(4)
        targets = on_surface(name, 120, 4) + rng.normal(size=(120, 3))
        origins = 300 * np.array([0.0, 1, 0]) + rng.normal(size=(120, 3)) * 60
        directions = targets - origins
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        distances, normals = AnalyticSurface(solid(name)).trace(origins, directions)
        hit = np.isfinite(distances)
        assert 20 < hit.sum() < 120
        points = origins[hit] + distances[hit, None] * directions[hit]
        assert np.abs(shape(points)).max() < 1e-8
        assert (normals[hit] * directions[hit]).sum(1).max() < 1e-6
        np.testing.assert_array_equal(normals[~hit], 0)

        before = np.where(hit, distances - 0.02, 700.0)  # 700: beyond the object
        along = np.linspace(0, 1, 2000) * before[:, None]
        places = origins[:, None] + along[..., None] * directions[:, None]
        assert shape(places.reshape(-1, 3)).min() > -1e-4

    @every_scene
    def test_see_what_a_ray_tracer_sees_of_the_mesh(self, name: str) -> None:
        """Same masks but for pixels on an edge, same distances and normals: no holes, no ghosts."""
        K, c2w = (
            intrinsics(112, 134),
            turntable_poses(2, np.deg2rad(25), 1500.0, 0.0, np.random.default_rng(0)),
        )
        analytic = render(AnalyticSurface(solid(name)), K, c2w, 112, 134)
        meshed = render(MeshSurface(solid(name).mesh), K, c2w, 112, 134)
        for exact, near, pose in zip(analytic, meshed, c2w, strict=True):
            differ = exact.mask ^ near.mask
            assert differ.sum() <= 0.004 * exact.mask.sum()
            # where they differ, the ray just touches the surface or just does not
            rays = exact.rays[differ] @ pose[:3, :3].T
            along = 1500 + np.linspace(-1, 1, 2000) * RADIUS
            places = pose[:3, 3] + along[:, None] * rays[:, None]
            deepest = solid(name).shape(places.reshape(-1, 3)).reshape(-1, 2000).min(1)
            assert np.abs(deepest).max(initial=0) < 0.2
            both = exact.mask & near.mask
            apart = np.abs(exact.ray_distance - near.ray_distance)[both]
            angle = np.rad2deg(angle_between(exact.normals[both], near.normals[both]))
            assert np.median(apart) < 0.02
            assert np.quantile(apart, 0.97) < 0.3
            assert np.median(angle) < 0.5

    def test_agree_with_normals_from_finite_differences(self) -> None:
        """On the smooth scene: the plane through neighbouring points is the tangent plane."""
        K, c2w = (
            intrinsics(512, 612),
            turntable_poses(1, 0.4, 1500.0, 0.0, np.random.default_rng(0)),
        )
        (view,) = render(AnalyticSurface(solid("blob")), K, c2w, 512, 612)
        points = view.ray_distance[..., None] * view.rays
        across = points[1:-1, 2:] - points[1:-1, :-2]
        down = points[2:, 1:-1] - points[:-2, 1:-1]
        differences = np.cross(down, across)  # towards the camera
        good = np.isfinite(differences).all(-1)
        good &= -(view.normals * view.rays).sum(-1)[1:-1, 1:-1] > 0.5
        angles = np.rad2deg(angle_between(differences[good], view.normals[1:-1, 1:-1][good]))
        assert np.median(angles) < 0.01
        assert np.quantile(angles, 0.99) < 0.2
