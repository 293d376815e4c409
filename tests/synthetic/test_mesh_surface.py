"""Triangle meshes that rays hit, and mesh files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from pmni.errors import InputError
from pmni.geometry.mesh import Mesh
from pmni.synthetic.mesh_surface import MeshSurface, load_mesh


def mesh_surface(mesh: trimesh.Trimesh) -> MeshSurface:
    return MeshSurface(Mesh(mesh.vertices, mesh.faces, None, np.array(mesh.vertex_normals)))


class TestMeshRays:
    def test_exact_on_a_cube(self) -> None:
        surface = mesh_surface(trimesh.creation.box((2, 2, 2)))
        across = np.random.default_rng(0).uniform(-0.99, 0.99, (300, 2))
        origins = np.insert(across, 1, 1500.0, axis=1)
        distances, _ = surface.trace(origins, np.tile([0.0, -1, 0], (300, 1)))
        np.testing.assert_allclose(distances, 1499.0, atol=1e-9)
        origins[:, 0] += 3
        distances, normals = surface.trace(origins, np.tile([0.0, -1, 0], (300, 1)))
        assert np.isnan(distances).all()
        np.testing.assert_array_equal(normals, 0)

    def test_slanted_rays_hit_the_plane_exactly(self) -> None:
        """Single precision would be 1e-4 off at this distance."""
        surface = mesh_surface(trimesh.creation.box((160, 160, 160)))
        rng = np.random.default_rng(1)
        targets = np.insert(rng.uniform(-79, 79, (300, 2)), 2, 80.0, axis=1)
        origins = targets + np.array([700.0, 300.0, 1300.0])
        directions = np.array([-700.0, -300.0, -1300.0]) / np.linalg.norm([700, 300, 1300])
        distances, _ = surface.trace(origins, np.tile(directions, (300, 1)))
        np.testing.assert_allclose(distances, np.linalg.norm([700, 300, 1300]), atol=1e-9)

    def test_normals_are_smooth_and_face_the_viewer(self) -> None:
        surface = mesh_surface(trimesh.creation.icosphere(subdivisions=4, radius=10.0))
        across = np.random.default_rng(2).uniform(-7, 7, (500, 2))
        origins = np.insert(across, 2, 100.0, axis=1)
        down = np.tile([0.0, 0, -1], (500, 1))
        distances, normals = surface.trace(origins, down)
        points = origins + distances[:, None] * down
        np.testing.assert_allclose(normals, points / 10, atol=5e-3)
        assert (normals[:, 2] > 0).all()

    def test_the_back_of_an_open_surface_is_turned_round(self) -> None:
        sheet = trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [0, 1, 0]], [[0, 1, 2]])
        ends = np.array([[0.0, 0, 5], [0, 0, -5]])
        distances, normals = mesh_surface(sheet).trace(ends, -ends / 5)
        np.testing.assert_allclose(distances, 5)
        np.testing.assert_allclose(normals, ends / 5, atol=1e-5)


class TestLoadMesh:
    def write(self, path: Path, mesh: Any) -> Path:
        mesh.export(path)
        return path

    def test_is_centred_scaled_and_turned_upright(self, tmp_path: Path) -> None:
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

    def test_split_vertices_are_joined_and_slivers_dropped(self, tmp_path: Path) -> None:
        ball = trimesh.creation.icosphere(subdivisions=2)
        split = trimesh.Trimesh(ball.vertices[ball.faces].reshape(-1, 3), process=False)
        faces = np.arange(len(split.vertices)).reshape(-1, 3)
        faces = np.concatenate([faces, [[0, 0, 1]]])
        split = trimesh.Trimesh(split.vertices, faces, process=False)
        mesh = load_mesh(self.write(tmp_path / "split.ply", split), "z", 1.0)
        assert len(mesh.vertices) == len(ball.vertices)
        assert len(mesh.faces) == len(ball.faces)
        np.testing.assert_allclose(mesh.normals, mesh.vertices, atol=0.02)

    def test_a_mesh_inside_out_is_turned(self, tmp_path: Path) -> None:
        ball = trimesh.creation.icosphere(subdivisions=2)
        ball.invert()
        mesh = load_mesh(self.write(tmp_path / "inverted.ply", ball), "z", 1.0)
        assert (mesh.normals * mesh.vertices).sum(1).min() > 0.9

    def test_subdivision(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "ball.ply", trimesh.creation.icosphere(subdivisions=2))
        assert len(load_mesh(path, "z", 1.0, subdivide=2).faces) == 320 * 16

    def test_faults_are_named(self, tmp_path: Path) -> None:
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
