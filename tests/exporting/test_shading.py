"""Shaded images."""

import numpy as np
import pytest
import trimesh

from pmni.exporting.shading import Viewpoint, shade
from pmni.geometry.cameras import look_at
from pmni.geometry.mesh import Mesh
from pmni.synthetic.mesh_surface import MeshSurface


def test_a_shaded_ball_is_a_disc_lit_from_the_left_above() -> None:
    ball = trimesh.creation.icosphere(4, 1.0)
    surface = MeshSurface(Mesh(np.asarray(ball.vertices), np.asarray(ball.faces)))
    K = np.array([[100.0, 0, 45], [0, 100, 40], [0, 0, 1]])
    image = shade(surface, Viewpoint(look_at(np.array([5.0, 0, 0]), np.zeros(3)), K, 90))
    v, u = np.mgrid[:90, :90]
    away = np.hypot(u - 45, v - 40)
    radius = 100 / np.sqrt(5**2 - 1)  # of the disc, in pixels
    assert (image[away < radius - 1.5, 3] == 1).all()
    assert (image[away > radius + 1.5] == 0).all()
    assert image[..., 3].sum() == pytest.approx(np.pi * radius**2, rel=0.01)
    lit, dark = image[30, 35, :3], image[50, 55, :3]
    assert (lit > 1.5 * dark).all()
