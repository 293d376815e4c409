"""Meshes made small, and packed."""

import base64
import gzip
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import marching_cubes

from pmni.reporting import meshes


def sphere(subdivisions: int) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def test_a_small_mesh_stays_as_it_is() -> None:
    vertices, faces = sphere(2)
    small = meshes.simplify(vertices, faces, 1000)
    assert len(small.faces) == len(faces)
    np.testing.assert_allclose(
        small.normals, vertices / np.linalg.norm(vertices, axis=1)[:, None], atol=0.03
    )


@pytest.mark.parametrize("largest", [300, 2000])
def test_a_simplified_sphere_is_closed_round_and_small_enough(largest: int) -> None:
    vertices, faces = sphere(5)
    small = meshes.simplify(10 * vertices, faces, largest)
    assert largest / 3 < len(small.faces) <= largest
    mesh = trimesh.Trimesh(small.vertices, small.faces, process=False)
    assert np.unique(mesh.edges_sorted, axis=0, return_counts=True)[1].min() >= 2  # no cracks
    np.testing.assert_allclose(mesh.volume, 4 / 3 * np.pi * 1000, rtol=20 / largest)
    radius = np.linalg.norm(small.vertices, axis=1)
    np.testing.assert_allclose(radius, 10, rtol=20 / largest)
    outwards = (small.normals * small.vertices).sum(1) / radius
    assert outwards.min() > 0.97


def test_edges_stay_sharp_and_thin_walls_stay_apart() -> None:
    box = trimesh.creation.box((1.0, 1.0, 0.01))
    for _ in range(6):
        box = box.subdivide()
    small = meshes.simplify(np.asarray(box.vertices), np.asarray(box.faces), 2000)
    mesh = trimesh.Trimesh(small.vertices, small.faces, process=False)
    np.testing.assert_allclose(mesh.bounds, box.bounds, atol=2e-3)
    np.testing.assert_allclose(mesh.volume, 0.01, rtol=0.05)


def test_no_face_is_turned_against_the_surface() -> None:
    i, j, k = np.indices((80, 80, 40)) - np.array([40, 40, 20])[:, None, None, None] + 0.01
    ring = np.hypot(np.hypot(i, j) - 25, k) - 9 + np.sin(i / 2) * np.cos(j / 2) * np.sin(k / 2)
    vertices, faces, _, _ = marching_cubes(ring, 0.0)
    small = meshes.simplify(vertices, faces, 6000)
    a, b, c = (small.vertices[corner] for corner in small.faces.T)
    face_normals = np.cross(b - a, c - a)
    face_normals /= np.linalg.norm(face_normals, axis=1, keepdims=True)
    along = np.einsum("fi,fki->fk", face_normals, small.normals[small.faces]).mean(1)
    assert along.min() > 0


@pytest.fixture
def _restless_threads():
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("_restless_threads")
def test_meshes_that_are_simplified_side_by_side_are_as_alone() -> None:
    vertices, faces = sphere(6)
    sizes = [1.0, 2.0, 3.0, 4.0]
    alone = [meshes.simplify(size * vertices, faces, 5000).vertices for size in sizes]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda size: meshes.simplify(size * vertices, faces, 5000), 2 * sizes)
        for small, expected in zip(found, 2 * alone, strict=True):
            np.testing.assert_array_equal(small.vertices, expected)


def test_values_are_carried_over_as_means_and_gaps_stay_gaps() -> None:
    cluster = np.array([0, 0, 1, 2, 2, -1])
    values = np.array([1.0, 3.0, np.nan, 5.0, np.nan, 99.0])
    np.testing.assert_array_equal(meshes.average(values, cluster, 3), [2.0, np.nan, 5.0])


def test_a_mesh_without_faces_is_refused() -> None:
    with pytest.raises(ValueError, match="no faces"):
        meshes.simplify(np.zeros((3, 3)), np.zeros((0, 3), int), 10)


def unpack(header: dict, packed: str) -> dict[str, np.ndarray]:
    """What `viewer.js` makes of a packed mesh, written down a second time."""
    data = np.frombuffer(gzip.decompress(base64.b64decode(packed)), np.uint8).astype(np.int64)
    count, start, columns = (header["vertices"], 0, [])
    per_vertex = 7 if header["values"] else 6
    for length in [header["faces"]] * 3 + [count] * per_vertex:
        planes = data[start : start + 3 * length].reshape(3, length)
        code = planes[0] + (planes[1] << 8) + (planes[2] << 16)
        columns.append((code >> 1) ^ -(code & 1))
        start += 3 * length
    assert start == len(data)
    a, b, c = np.cumsum(columns[0]), columns[1], columns[2]
    rows = np.cumsum(columns[3:], axis=1).T
    lower, upper = np.array(header["lower"]), np.array(header["upper"])
    unpacked = {
        "faces": np.stack([a, a + b, a + b + c], 1),
        "vertices": lower + (upper - lower) * rows[:, :3] / 16383,
        "normals": rows[:, 3:6] / 127,
    }
    if header["values"]:
        low, high = header["values"]
        steps = rows[:, 6]
        unpacked["values"] = np.where(steps < 0, np.nan, low + (high - low) * steps / 1023)
    return unpacked


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), with_values=st.booleans())
def test_what_is_packed_is_unpacked(seed: int, with_values: bool) -> None:
    random = np.random.default_rng(seed)
    vertices = random.normal(0, 50, (40, 3))
    normals = random.normal(0, 1, (40, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    faces = random.integers(0, 40, (70, 3))
    values = np.where(random.random(40) < 0.2, np.nan, random.random(40)) if with_values else None
    found = unpack(*meshes.pack(vertices, normals, faces, values))
    np.testing.assert_array_equal(found["faces"], faces)
    np.testing.assert_allclose(found["vertices"], vertices, atol=300 / 16383)
    np.testing.assert_allclose(found["normals"], normals, atol=0.5 / 127)
    if values is not None:
        np.testing.assert_allclose(found["values"], values, atol=1 / 1023)
