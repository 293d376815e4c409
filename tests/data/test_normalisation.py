"""The unit sphere of the normalised world."""

import numpy as np
import pytest
from fixtures.capture_files import (
    spheres,
)

from pmni.data.normalisation import around_mesh, around_views
from pmni.errors import InputError
from pmni.geometry.mesh import Mesh


def test_normalisation_around_a_mesh() -> None:
    """A box of half sides 3, 4, 12 (diagonal 13) about (1, 2, 3); one stray vertex, unused."""
    corners = np.array([[x, y, z] for x in (-3, 3) for y in (-4, 4) for z in (-12, 12)], float)
    centre = np.array([1.0, 2, 3])
    vertices = np.vstack([corners + centre, [[1000, 0, 0]]])
    faces = np.array([[0, 1, 2], [3, 4, 5], [5, 6, 7]])
    sphere = around_mesh(Mesh(vertices, faces))
    assert np.allclose(sphere.offset, centre)
    assert sphere.scale == pytest.approx(1.1 * 13)


def test_normalisation_around_views_finds_a_ball() -> None:
    """Cameras around a ball whose image is in the middle of none of them."""
    scene = spheres()
    intrinsics = np.tile(scene.K, (5, 1, 1))
    sphere = around_views(scene.c2w, intrinsics, list(scene.masks), "abcde", "poses.json")
    points = np.array(scene.mesh.vertices)
    assert np.linalg.norm(points - sphere.offset, axis=1).max() < sphere.scale
    assert sphere.scale < 1.5 * np.ptp(points, axis=0).max() / 2
    same = np.tile(scene.c2w[0], (5, 1, 1))
    with pytest.raises(InputError, match=r"poses\.json: all views: the cameras all look"):
        around_views(same, intrinsics, [scene.masks[0]] * 5, "abcde", "poses.json")
