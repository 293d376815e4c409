"""Systematic errors of normals: interreflection and shadows."""

from typing import Any

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from pmni.errors import InputError
from pmni.geometry.mesh import Mesh
from pmni.synthetic.camera_rig import intrinsics, turntable_poses
from pmni.synthetic.mesh_surface import MeshSurface
from pmni.synthetic.noise import angle_between
from pmni.synthetic.rendering import render
from pmni.synthetic.shading import MutualVisibility, shading_errors


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(
        np.array(shape.vertices),
        np.array(shape.faces, np.int64),
        exact_normals=np.array(shape.vertex_normals),
    )


def ball() -> Mesh:
    return mesh_of(trimesh.creation.icosphere(4, 80.0))


def torus() -> Mesh:
    return mesh_of(trimesh.creation.torus(55.0, 25.0, major_sections=128, minor_sections=64))


def bowl() -> Mesh:
    """A thick half shell, open at the top: radii 60 and 80 mm."""
    angle = np.linspace(0, np.pi / 2, 40)
    arc = np.stack([np.sin(angle), -np.cos(angle)], 1)
    profile = np.concatenate([80 * arc, 60 * arc[::-1]])
    return mesh_of(trimesh.creation.revolve(profile, sections=96))


def seen(mesh: Mesh, points: Any, normals: Any) -> np.ndarray:
    return MutualVisibility(mesh).mean_visible_normal(
        np.array(points, float), np.array(normals, float)
    )


class TestInterreflection:
    def test_a_convex_body_sees_only_sky(self) -> None:
        mesh = ball()
        assert not seen(mesh, mesh.vertices, mesh.normals).any()

    def test_a_torus_sees_itself_in_its_hole(self) -> None:
        """Inside, the wall across the hole: opposite normals. Outside: sky."""
        found = seen(
            torus(), [[30, 0, 0], [80, 0, 0], [0, -30, 0]], [[-1, 0, 0], [1, 0, 0], [0, 1, 0]]
        )
        assert found[0, 0] > 0.08
        assert found[2, 1] < -0.08
        np.testing.assert_array_equal(found[1], 0)

    def test_every_place_in_a_bowl_sees_the_same(self) -> None:
        """Inside a sphere the form factor between any two places is dA / 4 pi R^2, so b is the
        mean normal of the half that is there, halved: (0, 0, 1/2) / 2."""
        angle = np.deg2rad([0, 25, 50, 70])
        normals = np.stack([np.sin(angle), 0 * angle, np.cos(angle)], 1)
        found = seen(bowl(), -60 * normals, normals)
        np.testing.assert_allclose(found, np.tile([0, 0, 0.25], (4, 1)), atol=0.02)

    def test_concavities_get_flatter(self) -> None:
        """Normals inside the bowl turn towards its opening."""
        angle = np.deg2rad(50)
        normal = np.array([-np.sin(angle), 0, np.cos(angle)])
        bent = normal + seen(bowl(), [-60 * normal], [normal])[0]
        bent /= np.linalg.norm(bent)
        assert bent[2] > normal[2] + 0.02


class TestShadows:
    def test_attached_and_cast(self) -> None:
        light = np.array([np.sin(1.0), 0, np.cos(1.0)])
        around = MutualVisibility(ball())
        normals = ball().normals
        shadow = around.in_shadow(ball().vertices, normals, light)
        np.testing.assert_array_equal(shadow, normals @ light < 0.05)
        around = MutualVisibility(bowl())
        points = np.array([[40, 0, -44.7], [-40, 0, -44.7], [0, 0, -60]])
        up = np.array([0, 0, 1.0])
        normals = -points / 60
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        found = around.in_shadow(points * 0.999, normals, np.array([0.9, 0, np.sqrt(0.19)]))
        assert found.tolist() == [True, False, True]  # attached, lit, cast
        assert not around.in_shadow(points * 0.999, normals, up).any()


@pytest.fixture(scope="module")
def views_of() -> Any:
    """name -> views of a mesh from 4 sides, and their poses."""

    def make(mesh: Mesh) -> Any:
        c2w = turntable_poses(4, np.deg2rad(40), 1500.0, 0.0, rng())
        return list(render(MeshSurface(mesh), intrinsics(72, 86), c2w, 72, 86)), c2w

    return make


def angles(views: Any, wrong: Any) -> list[np.ndarray]:
    pairs = zip(views, wrong, strict=True)
    return [np.rad2deg(angle_between(n[v.mask], v.normals[v.mask])) for v, n in pairs]


class TestShading:
    @settings(max_examples=3, deadline=None)
    @given(degrees=st.floats(1.0, 6.0), seed=st.integers(0, 100))
    def test_the_mean_over_all_views_is_as_asked(
        self, degrees: Any, seed: Any, views_of: Any
    ) -> None:
        views, c2w = views_of(bowl())
        wrong = shading_errors(views, c2w, bowl(), np.deg2rad(degrees), rng(seed))
        assert np.concatenate(angles(views, wrong)).mean() == pytest.approx(degrees, rel=0.02)
        for view, normals in zip(views, wrong, strict=True):
            np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), view.mask, atol=1e-9)
            assert (normals * view.rays).sum(-1)[view.mask].max() < 0

    def test_the_lit_side_of_a_ball_is_right(self, views_of: Any) -> None:
        views, c2w = views_of(ball())
        wrong = shading_errors(views, c2w, ball(), np.deg2rad(1.0), rng(1))
        azimuth = rng(1).uniform(0, 2 * np.pi)
        flat = np.sin(np.deg2rad(50))
        light = [flat * np.cos(azimuth), flat * np.sin(azimuth), -np.cos(np.deg2rad(50))]
        for view, found in zip(views, angles(views, wrong), strict=True):
            lit = (view.normals @ light)[view.mask] > 0.06
            assert found[lit].max() < 1e-5
            assert found[~lit].max() > 20

    def test_shadows_are_wrong_in_patches(self, views_of: Any) -> None:
        views, c2w = views_of(ball())
        wrong = shading_errors(views, c2w, ball(), np.deg2rad(2.0), rng(2))
        outlier = np.zeros((len(views), *views[0].mask.shape), bool)
        outlier[np.stack([view.mask for view in views])] = np.concatenate(angles(views, wrong)) > 1
        inner = outlier[:, 1:-1, 1:-1]
        rows = outlier[:, :-2, 1:-1] | outlier[:, 2:, 1:-1]
        columns = outlier[:, 1:-1, :-2] | outlier[:, 1:-1, 2:]
        assert inner.sum() > 100
        assert (inner & ~rows & ~columns).sum() < 0.05 * inner.sum()

    def test_what_cannot_be_reached_is_said(self, views_of: Any) -> None:
        views, c2w = views_of(ball())
        with pytest.raises(InputError, match=r"cannot make this object's normals 40\.0 degrees"):
            shading_errors(views, c2w, ball(), np.deg2rad(40.0), rng())
