"""Points of the surface."""

from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from pmni.exporting.points import write_points
from pmni.exporting.scene import Points, sample_surface


def test_points_lie_on_the_surface_evenly_and_are_the_same_each_time() -> None:
    ball = trimesh.creation.icosphere(4, 50)
    points = sample_surface(np.array(ball.vertices), np.array(ball.faces), 5000)
    radius = np.linalg.norm(points.positions, axis=1)
    assert 49.8 < radius.min() < radius.max() <= 50
    outward = (points.positions / radius[:, None] * points.normals).sum(1)
    assert outward.min() > 0.99
    assert np.abs(points.positions.mean(0)).max() < 2
    again = sample_surface(np.array(ball.vertices), np.array(ball.faces), 5000)
    assert np.array_equal(points.positions, again.positions)


def test_point_cloud_is_a_ply_with_colours(tmp_path: Path) -> None:
    points = Points(np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[1.0, 0, 0], [0, 0, -1]]))
    write_points(tmp_path / "p.ply", points)
    read: Any = trimesh.load(tmp_path / "p.ply")
    assert np.asarray(read.vertices).tolist() == points.positions.tolist()
    assert np.asarray(read.colors)[:, :3].tolist() == [[255, 128, 128], [128, 128, 0]]
