"""The figure of the cameras around the object."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.capture_files import spheres
from fixtures.export_formats import (
    GAUGE,
    spheres_capture,
)

from pmni.exporting.camera_figure import arrange, frusta, viewpoints
from pmni.exporting.scene import cameras_of
from pmni.geometry.mesh import Mesh
from pmni.geometry.poses import Poses


def test_the_figure_puts_everything_into_the_references_frame() -> None:
    capture = spheres_capture()
    assert capture.reference_c2w is not None
    reference = Poses(capture.views, capture.reference_c2w)
    moved = Poses(capture.views, GAUGE.move_cameras(capture.reference_c2w))
    cameras = cameras_of(capture, moved, Path("poses.json"))
    initial = cameras_of(capture, reference, Path("initial.json"))
    mesh = spheres().mesh
    vertices = np.asarray(mesh.vertices, float)
    gauge_vertices = capture.to_dataset(GAUGE(capture.to_normalised(vertices)))
    figure = arrange(capture, cameras, initial, Mesh(gauge_vertices, np.asarray(mesh.faces)), 0.05)
    assert [drawn.label for drawn in figure.sets] == ["reference", "initial", "result"]
    for drawn in figure.sets[1:]:
        np.testing.assert_allclose(drawn.c2w, figure.sets[0].c2w, atol=1e-9)
    centre = (vertices.min(0) + vertices.max(0)) / 2
    radius = np.linalg.norm(vertices - centre, axis=1).max()
    assert figure.surface is not None
    assert np.abs(figure.surface.mesh.vertices - (vertices - centre) / radius).max() < 1e-6
    far = np.linalg.norm(spheres().c2w[:, :3, 3] - centre, axis=1)
    near = np.linalg.norm(figure.sets[0].c2w[:, :3, 3], axis=1)
    np.testing.assert_allclose(near * figure.shortening * radius, far)


def test_all_frusta_and_the_surface_are_in_the_figure() -> None:
    capture = spheres_capture()
    assert capture.reference_c2w is not None
    cameras = cameras_of(capture, Poses(capture.views, capture.reference_c2w), Path("p.json"))
    mesh = spheres().mesh
    figure = arrange(
        capture,
        cameras,
        cameras,
        Mesh(np.asarray(mesh.vertices), np.asarray(mesh.faces)),
        0.05,
    )
    corners = frusta(figure.sets[-1].c2w, figure.aspect)
    assert figure.surface is not None
    for viewpoint in viewpoints(figure):
        for points in (corners, figure.surface.mesh.vertices):
            pixels, depth = viewpoint.project(points)
            assert pixels.min() > 0
            assert pixels.max() < viewpoint.side
            assert depth.min() > 0


def test_a_frustum_has_its_apex_in_the_centre_and_its_roof_on_the_upper_side() -> None:
    corners = frusta(np.eye(4)[None], 2.0)[0]
    assert corners[0].tolist() == [0, 0, 0]
    width, height = np.ptp(corners[1:5, :2], axis=0)
    assert width / height == pytest.approx(2)
    assert (corners[1:, 2] > 0).all()
    assert (corners[5:, 1] < corners[1:5, 1].min()).all()  # y is down
