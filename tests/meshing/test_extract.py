"""Surfaces are found whole, outward, and the same whatever the backend."""

import importlib
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from fixtures.analytic_sdfs import Analytic, box, distorted, sphere, torus, union
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree
from skimage.measure import marching_cubes
from torch import Tensor

from pmni.config.extensions import EXTRACTORS
from pmni.config.meshing import MeshSettings, SurfaceSamplingSettings
from pmni.errors import DivergenceError, InputError, MissingBackendError
from pmni.geometry.mesh import Mesh, open_edges, signed_volume, vertex_normals
from pmni.meshing import sparse_grid
from pmni.meshing.adaptive_sampling import sample_near_surface
from pmni.meshing.extract import Extraction, extract_zero_level
from pmni.meshing.extractor import Extractor
from pmni.meshing.sparse_grid import SparseGrid
from pmni.meshing.triangles import Triangles, largest_component

CPU = torch.device("cpu")
NAMES = ["marching_cubes", "pymcubes", "skimage", "open3d"]
TORUS = torus(0.55, 0.2)
TORUS_VOLUME = 2 * np.pi**2 * 0.55 * 0.2**2


def extractor(name: str) -> Extractor:
    try:
        found: Extractor = EXTRACTORS[name]()
    except MissingBackendError:
        if name == "skimage":
            raise
        pytest.skip(f"{name} is not installed")
    return found


def sample(sdf: Callable[[Tensor], Tensor], resolution: int) -> SparseGrid:
    return sample_near_surface(sdf, resolution, SurfaceSamplingSettings(), CPU)


def run(
    sdf: Callable[[Tensor], Tensor],
    resolution: int,
    name: str = "marching_cubes",
    keep: Literal["largest", "all"] = "largest",
) -> Extraction:
    extractor(name)
    return extract_zero_level(sdf, resolution, MeshSettings(extractor=name, keep=keep))


def dense_vertices(sdf: Analytic, resolution: int) -> np.ndarray:
    """Marching cubes on all corners of the grid at once."""
    line = torch.linspace(-1, 1, resolution + 1)
    points = torch.cartesian_prod(line, line, line)
    values = sdf(points).reshape((resolution + 1,) * 3).numpy()
    return marching_cubes(values, 0.0)[0] * 2 / resolution - 1


SURFACES = {
    "sphere": sphere(0.7, (0.1, -0.05, 0.02)),
    "torus": TORUS,
    "plate thinner than a coarse cell": box(0.6, 0.5, 0.02),
    "speck smaller than a coarse cell": union(sphere(0.5), sphere(0.02, (0.8, 0.33, 0.05))),
    "slope 4": distorted(TORUS, 4.0, 0.5),
    "slope 1/4": distorted(TORUS, 0.25, 0.5),
    "leaves the box": sphere(0.9, (0.5, 0.0, 0.0)),
}


@pytest.mark.parametrize("resolution", [40, 101, 136])
@pytest.mark.parametrize("name", SURFACES)
def test_sparse_sampling_finds_all_that_dense_sampling_finds(name, resolution):
    # a shift, so that no part of the surface lies in a plane of the grid
    sdf = Analytic(lambda x: SURFACES[name](x - x.new_tensor([0.01371, -0.00713, 0.00937])))
    grid = sample(sdf, resolution)
    vertices = extractor("skimage")(grid.without_zeros()).vertices.numpy()
    dense = dense_vertices(sdf, resolution)
    for ours, theirs in ((vertices, dense), (dense, vertices)):
        off = KDTree(theirs).query(ours)[0] * resolution / 2
        assert np.median(off) < 1e-5
        assert off.max() < 1e-2


@example((1 / 48, 1 / 48, 1 / 48))
@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.floats(-0.9, 0.9)] * 3))
def test_a_speck_between_coarse_corners_is_found(centre):
    # 192 cells start from 48: a coarse cell is 0.042 wide, the speck 0.03
    grid = sample(sphere(0.015, centre), 192)
    assert grid.cells.shape[1] >= 8
    centres = (grid.nodes[:, grid.cells[0]].numpy().T + 0.5) / 96 - 1
    assert np.linalg.norm(centres - centre, axis=1).max() < 0.015 + np.sqrt(3) / 192


def test_few_values_are_computed():
    coarse, fine = sample(TORUS, 128), sample(TORUS, 256)
    assert fine.evaluations < 0.05 * 257**3
    # four times as many for twice the resolution: a surface, not a volume
    assert fine.evaluations < 4 * coarse.evaluations


def test_the_surface_is_followed_where_the_values_hide_it():
    # A step function says nothing of how near the surface is; coarse cells that the surface only
    # dips into show no change of sign.
    step = Analytic(lambda x: torch.where(box(0.5, 0.5, 0.5)(x) < 0, -1.0, 1.0))
    tilted = torch.linalg.qr(torch.tensor([[1.0, 2, 3], [0, 1, 4], [5, 6, 0]]))[0]
    found = run(Analytic(lambda x: step(x @ tilted)), 200)
    assert len(open_edges(found.mesh)) == 0
    assert signed_volume(found.mesh) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("resolution", [64, 97])
def test_faces_look_outward_and_close(name: str, resolution: int) -> None:
    found = run(TORUS, resolution, name)
    assert signed_volume(found.mesh) == pytest.approx(TORUS_VOLUME, rel=0.01)
    assert len(open_edges(found.mesh)) == 0
    assert (found.components, found.box_edges) == (1, 0)
    # a torus: V - E + F = 0
    assert len(found.mesh.vertices) * 2 == len(found.mesh.faces)


@pytest.mark.parametrize("name", NAMES)
def test_every_face_looks_to_the_positive_side(name):
    mesh = run(TORUS, 64, name).mesh
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    _, gradient = TORUS.value_and_gradient(torch.from_numpy(corners.mean(1)))
    assert (np.einsum("ij,ij->i", normals, gradient.numpy()) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_vertices_are_within_second_order_of_the_surface(name):
    coarse, fine = (
        TORUS(torch.from_numpy(run(TORUS, resolution, name).mesh.vertices)).abs().max().item()
        for resolution in (64, 128)
    )
    assert fine < 2e-4
    assert fine < coarse / 3


@pytest.mark.parametrize("name", ["marching_cubes", "pymcubes", "open3d"])
@pytest.mark.parametrize("surface", ["sphere", "torus", "slope 4"])
def test_extractors_agree(name: str, surface: str) -> None:
    ours = run(SURFACES[surface], 96, name).mesh.vertices
    reference = run(SURFACES[surface], 96, "skimage").mesh.vertices
    assert ours.shape == reference.shape
    assert KDTree(ours).query(reference)[0].max() < 1e-5


def test_values_of_exactly_zero_do_no_harm():
    # the faces of this box lie on grid corners
    found = run(box(0.5, 0.25, 0.75), 64)
    assert len(open_edges(found.mesh)) == 0
    assert signed_volume(found.mesh) == pytest.approx(8 * 0.5 * 0.25 * 0.75, rel=0.01)


def test_the_largest_component_is_kept_unless_all_are_wanted():
    both = union(sphere(0.4, (-0.4, 0, 0)), sphere(0.2, (0.6, 0, 0)))
    volumes = [4 / 3 * np.pi * radius**3 for radius in (0.4, 0.2)]
    kept, everything = run(both, 96), run(both, 96, keep="all")
    assert kept.components == everything.components == 2
    assert signed_volume(kept.mesh) == pytest.approx(volumes[0], rel=0.01)
    assert signed_volume(everything.mesh) == pytest.approx(sum(volumes), rel=0.01)


def test_a_surface_that_leaves_the_box_is_reported():
    found = run(sphere(0.9, (0.5, 0.0, 0.0)), 64)
    assert found.box_edges > 50
    assert found.box_edges == len(open_edges(found.mesh))


def test_no_surface_is_an_error():
    with pytest.raises(InputError, match="no surface"):
        run(Analytic(lambda x: torch.ones(len(x))), 64)


def test_values_that_are_not_finite_are_counted():
    def broken(x):
        value = TORUS(x)
        value[torch.all(x == -1, dim=-1)] = torch.nan
        value[torch.all(x == 1, dim=-1)] = torch.inf
        return value

    with pytest.raises(DivergenceError, match=r"2 values that are not finite"):
        run(Analytic(broken), 64)


def test_a_missing_backend_is_an_error_that_says_what_to_install(monkeypatch):
    def absent(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr("pmni.meshing.extractor.import_module", absent)
    for name, package in [("pymcubes", "PyMCubes"), ("open3d", "open3d")]:
        with pytest.raises(MissingBackendError, match=f"'{name}'.*pip install {package}"):
            EXTRACTORS[name]()


@pytest.mark.parametrize("inside_out", [False, True])
def test_a_library_may_turn_its_faces_either_way(monkeypatch, inside_out):
    skimage = importlib.import_module("skimage.measure")

    class Library:
        @staticmethod
        def marching_cubes(values, level):
            vertices, faces, *rest = skimage.marching_cubes(values, level)
            return vertices, faces[:, ::-1] if inside_out else faces, *rest

    monkeypatch.setattr("pmni.meshing.extractor.import_module", lambda name: Library)
    assert signed_volume(run(TORUS, 48, "skimage").mesh) > 0


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=3, max_size=3), st.integers(1, 8), st.integers(0, 2**31)
)
def test_filled_corners_have_the_sign_of_their_neighbours(start, count, seed):
    """Known values of one sign stay the only sign; each is left as it is."""
    rng = np.random.default_rng(seed)
    values = np.full((6, 7, 8), np.nan, np.float32)
    values[tuple(start)] = 1.5
    for _ in range(count):
        values[tuple(rng.integers(0, (6, 7, 8)))] = rng.uniform(0.1, 2)
    filled = sparse_grid._fill(values.copy())
    assert (filled > 0).all()
    known = np.isfinite(values)
    np.testing.assert_array_equal(filled[known], values[known])


def test_blocks_hold_every_cell_with_its_own_values():
    grid = sample(TORUS, 66)
    corners = grid.nodes.T[grid.cells.long()].numpy()  # 8 C 3
    values = grid.values[grid.cells.long()].numpy()
    seen = 0
    for origin, block in grid.blocks(16):
        inside = ((corners[0] >= origin) & (corners[0] < origin + 16)).all(1)
        places = tuple((corners[:, inside] - origin).transpose(2, 0, 1))
        np.testing.assert_array_equal(block[places], values[:, inside])
        seen += inside.sum()
    assert seen == grid.cells.shape[1]


TETRAHEDRON = Mesh(
    np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]),
)


def test_volume_of_a_tetrahedron():
    assert signed_volume(TETRAHEDRON) == pytest.approx(1 / 6)
    assert signed_volume(Mesh(TETRAHEDRON.vertices, TETRAHEDRON.faces[:, ::-1])) == pytest.approx(
        -1 / 6
    )


def test_open_edges():
    def edges(faces):
        return sorted(open_edges(Mesh(TETRAHEDRON.vertices, np.array(faces))).tolist())

    faces = TETRAHEDRON.faces.tolist()
    assert edges(faces) == []
    # without [0, 2, 1], what its neighbours have of its sides
    assert edges(faces[1:]) == [[0, 1], [1, 2], [2, 0]]
    # turned over, its sides run the same way as theirs
    assert edges([faces[0][::-1], *faces[1:]]) == [[0, 1]] * 2 + [[1, 2]] * 2 + [[2, 0]] * 2
    # a third face at a side
    assert [0, 1] in edges([*faces, [1, 0, 3]])


def test_vertex_normals_weigh_faces_by_angle():
    # The corner of a cube, one of whose three faces is cut into two triangles: still the diagonal.
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    faces = np.array([[0, 4, 1], [0, 2, 4], [0, 1, 3], [0, 3, 2]])
    normal = vertex_normals(Mesh(vertices, faces))[0]
    np.testing.assert_allclose(normal, -np.ones(3) / np.sqrt(3), atol=1e-12)


def test_vertex_normals_of_a_sphere():
    mesh = run(sphere(0.7), 96).mesh
    exact = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    assert np.linalg.norm(vertex_normals(mesh) - exact, axis=1).max() < 0.03


def test_unused_vertices_have_no_normal_and_leave_with_the_small_components():
    loose = [[5.0, 5, 5]]
    mesh = Mesh(np.vstack([TETRAHEDRON.vertices, loose]), TETRAHEDRON.faces)
    assert (vertex_normals(mesh)[4] == 0).all()
    small, large = TETRAHEDRON.vertices / 2 - 3, TETRAHEDRON.vertices
    vertices = torch.from_numpy(np.vstack([small, loose, large]))
    faces = torch.from_numpy(np.vstack([TETRAHEDRON.faces, TETRAHEDRON.faces + 5])).int()
    kept, components = largest_component(Triangles(vertices, faces))
    assert components == 2
    np.testing.assert_array_equal(kept.vertices, large)
    np.testing.assert_array_equal(kept.faces, TETRAHEDRON.faces)
