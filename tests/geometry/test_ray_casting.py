"""Rays against meshes, by hand."""

import numpy as np
import pytest
from fixtures.evaluation_scene import ball, lumpy
from scipy.spatial.transform import Rotation

from pmni.errors import MissingBackendError
from pmni.evaluation.distances import angle_deg
from pmni.geometry.mesh import Mesh, vertex_normals
from pmni.geometry.ray_casting import RayCaster, Rays, cast_rays, mask_rays


def straight(origin: list, directions: list) -> Rays:
    directions_array = np.array(directions, float)
    directions_array /= np.linalg.norm(directions_array, axis=1, keepdims=True)
    return Rays(np.zeros(len(directions), int), np.array([origin], float), directions_array)


TILE = Mesh(
    np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 50], [4, 0, 50], [0, 4, 50]]),
    np.array([[0, 1, 2], [3, 4, 5]]),
)


def test_rays_hit_the_nearer_surface_and_miss_beside_it() -> None:
    hits = cast_rays(TILE, straight([1, 1, -1500], [[0, 0, 1], [1, 0, 1500], [1, 0, 1]]))
    assert hits.mask.tolist() == [True, True, False]
    np.testing.assert_allclose(hits.points, [[1, 1, 0], [2, 1, 0]], atol=1e-12)
    assert hits.triangles.tolist() == [0, 0]
    np.testing.assert_allclose(hits.normals, [[0, 0, 1]] * 2, atol=1e-12)


def test_rays_intersect_given_triangles() -> None:
    caster = RayCaster(TILE)
    rays = straight([1, 1, -1500], [[1, 0, 1], [0, 0, 1], [5, 0, 1500], [1, 0, 1500]])
    origins = rays.centres[rays.view]
    triangles = caster.first_triangles(origins, rays.directions)
    assert triangles.tolist() == [-1, 0, -1, 0]
    rows = np.array([3, 1])
    points, weights, distances = caster.intersect(
        origins[rows], rays.directions[rows], triangles[rows]
    )
    np.testing.assert_allclose(points, [[2, 1, 0], [1, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(weights, [[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]], atol=1e-12)
    np.testing.assert_allclose(distances, [np.hypot(1500, 1), 1500], rtol=1e-12)


def test_embree_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmni.geometry.ray_casting.has_embree", False)
    with pytest.raises(MissingBackendError, match="pip install embreex"):
        RayCaster(TILE)


def test_hits_are_exact_far_from_the_origin() -> None:
    # 1e5 mm away, where float32 resolves 0.01 mm
    mesh = lumpy(4)
    shift = np.array([1e5, -2e5, 3e5])
    far = Mesh(mesh.vertices + shift, mesh.faces)
    centre = mesh.vertices.mean(0)
    rng = np.random.default_rng(0)
    directions = centre + rng.normal(size=(500, 3)) * 15 - [0, 0, -1500.0]
    rays = straight([0, 0, -1500.0], directions.tolist())
    here = cast_rays(mesh, rays)
    there = cast_rays(far, Rays(rays.view, rays.centres + shift, rays.directions))
    assert here.mask.sum() > 450
    np.testing.assert_array_equal(there.mask, here.mask)
    np.testing.assert_allclose(there.points - shift, here.points, atol=1e-6)


def test_normals_are_interpolated_between_vertices() -> None:
    mesh = ball(60.0, 4)
    centre = mesh.vertices.mean(0)
    rng = np.random.default_rng(1)
    target = centre + rng.normal(size=(300, 3)) * 15
    origin = centre - [0, 1500, 0]
    hits = cast_rays(mesh, straight(origin.tolist(), (target - origin).tolist()))
    exact = (hits.points - centre) / np.linalg.norm(hits.points - centre, axis=1, keepdims=True)
    assert angle_deg(hits.normals, exact).max() < 0.2  # faces differ by 2 degrees
    np.testing.assert_allclose(np.linalg.norm(hits.normals, axis=1), 1)
    assert angle_deg(vertex_normals(mesh), mesh.vertices - centre).max() < 0.2


def test_rays_go_through_the_pixels_of_the_masks() -> None:
    masks = np.zeros((2, 3, 4), bool)
    masks[0, 2, 1] = masks[1, 0, 3] = masks[1, 1, 0] = True
    K = np.array([[2.0, 0, 1], [0, 4.0, 1], [0, 0, 1]])
    c2w = np.tile(np.eye(4), (2, 1, 1))
    c2w[1, :3, :3] = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    c2w[1, :3, 3] = [7, 8, 9]
    rays = mask_rays(masks, np.stack([K, K]), c2w)
    assert rays.view.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(rays.centres, [[0, 0, 0], [7, 8, 9]])
    expected = np.array([[0, 0.25, 1], [0.25, 1, 1], [0, -0.5, 1]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(rays.directions, expected, atol=1e-12)
