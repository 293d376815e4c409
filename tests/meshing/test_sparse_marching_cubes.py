"""The project's own marching cubes: closed and manifold whatever the values, and where it is."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from fixtures.analytic_sdfs import Analytic, box, distorted, sphere, torus, union
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor

from pmni.config.meshing import MeshSettings, SurfaceSamplingSettings
from pmni.geometry.mesh import Mesh, area_vectors, open_edges, signed_volume
from pmni.meshing import node_cache, sparse_marching_cubes
from pmni.meshing.adaptive_sampling import sample_near_surface
from pmni.meshing.case_table import CORNERS, EDGE_AXIS, EDGES, case_table
from pmni.meshing.extract import extract_zero_level
from pmni.meshing.sparse_grid import SparseGrid
from pmni.meshing.sparse_marching_cubes import marching_cubes
from pmni.meshing.triangles import components, largest_component

CPU = torch.device("cpu")
TORUS = torus(0.55, 0.2)


def sample(sdf: Callable[[Tensor], Tensor], resolution: int) -> SparseGrid:
    return sample_near_surface(sdf, resolution, SurfaceSamplingSettings(), CPU)


def dense_grid(values: np.ndarray) -> SparseGrid:
    """All cells of a dense grid that cross zero."""
    side = len(values)
    nodes = np.indices((side,) * 3).reshape(3, -1)
    cells = np.indices((side - 1,) * 3).reshape(3, -1)
    corners = [np.ravel_multi_index(cells + np.reshape(c, (3, 1)), (side,) * 3) for c in CORNERS]
    below = values.reshape(-1)[np.array(corners)] < 0
    crossed = below.any(0) & ~below.all(0)
    return SparseGrid(
        side - 1,
        torch.from_numpy(nodes).int(),
        torch.from_numpy(values.reshape(-1)).float(),
        torch.from_numpy(np.array(corners)[:, crossed]).int(),
        side**3,
    )


def mesh_of(values: np.ndarray) -> Mesh:
    """In grid units."""
    found = marching_cubes(dense_grid(values))
    half = (len(values) - 1) / 2
    return Mesh((found.vertices.numpy() + 1) * half, found.faces.numpy())


def with_positive_border(values: np.ndarray) -> np.ndarray:
    return np.pad(values, 1, constant_values=1.0).astype(np.float32)


def random_values(seed: int, side: int, negative: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.1, 1, (side,) * 3)
    return np.where(rng.random(size.shape) < negative, -size, size).astype(np.float32)


def faces_around_are_one_fan(mesh: Mesh) -> bool:
    """Whether the faces at every vertex hang together by their edges: no two sheets touch there."""
    corners = mesh.faces[:, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]].reshape(-1, 3)  # vertex, next, last
    count = len(mesh.vertices)
    spokes, index = np.unique(
        np.vstack([corners[:, [0, 1]], corners[:, [0, 2]]]) @ [count, 1], return_inverse=True
    )
    joined = coo_matrix((np.ones(len(corners)), index.reshape(2, -1)), (len(spokes), len(spokes)))
    fans = connected_components(joined, directed=False)[0]
    return fans == len(np.unique(mesh.faces))


def test_the_table_has_the_known_cases():
    counts, table = case_table()
    assert counts[0] == counts[255] == 0
    assert counts.max() == 5
    # one corner: the three edges at it; four corners of a side: a square
    for corner in range(8):
        ends = [EDGES[edge] for edge in table[1 << corner, 0]]
        assert counts[1 << corner] == 1
        assert all(corner in pair for pair in ends)
    assert counts[0b00001111] == 2
    # two corners of a side's diagonal are cut off one by one; the others, joined, round them
    assert counts[1 | 8] == 2
    assert counts[255 - (1 | 8)] == 4


def test_the_table_uses_exactly_the_crossed_edges():
    counts, table = case_table()
    for case in range(256):
        crossed = {e for e, (a, b) in enumerate(EDGES) if (case >> a ^ case >> b) & 1}
        assert set(table[case, : counts[case]].ravel()) == crossed


def test_edges_go_along_their_axes():
    for (a, b), axis in zip(EDGES, EDGE_AXIS, strict=True):
        step = np.subtract(CORNERS[b], CORNERS[a])
        assert step.tolist() == np.eye(3, dtype=int)[axis].tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 7), st.floats(0.1, 0.9))
def test_random_signs_give_a_closed_manifold(seed, side, negative):
    values = with_positive_border(random_values(seed, side, negative))
    if (values >= 0).all():
        return
    mesh = mesh_of(values)
    assert len(open_edges(mesh)) == 0
    assert faces_around_are_one_fan(mesh)
    assert signed_volume(mesh) > 0
    assert (np.linalg.norm(area_vectors(mesh), axis=1) > 0).all()


def test_all_pairs_of_cases_meet():
    """Every sign pattern of two neighbouring cells, along each axis."""
    for axis, pattern in product(range(3), range(0, 4096, 11)):
        signs = np.array([pattern >> bit & 1 for bit in range(12)]).reshape(3, 2, 2)
        values = np.full((5, 4, 4), 1.0)
        values[1:4, 1:3, 1:3] = 1.0 - 2.0 * signs
        cube = np.ones((5, 5, 5))
        cube[:, :4, :4] = values
        if (cube < 0).any():
            mesh = mesh_of(np.moveaxis(cube, 0, axis).astype(np.float32))
            assert len(open_edges(mesh)) == 0


@pytest.mark.parametrize("negative", [0.1, 0.5, 0.8])
def test_vertices_are_those_of_pymcubes(negative):
    mcubes = pytest.importorskip("mcubes")
    values = random_values(3, 24, negative)
    ours = mesh_of(values).vertices
    theirs = mcubes.marching_cubes(values, 0.0)[0]
    # PyMCubes repeats no vertex, nor do we: as many, at the same places
    assert len(ours) == len(theirs)
    off, which = KDTree(ours).query(theirs)
    assert off.max() < 1e-5
    assert len(np.unique(which)) == len(ours)


def test_plain_cells_are_cut_like_those_of_pymcubes():
    """On a smooth surface no cell is ambiguous: as many faces, and the same volume."""
    mcubes = pytest.importorskip("mcubes")
    line = np.linspace(-1, 1, 33)
    x, y, z = np.meshgrid(line, line, line, indexing="ij")
    values = (np.sqrt(x**2 + 1.3 * y**2 + 0.8 * z**2) - 0.61).astype(np.float32)
    ours = mesh_of(values)
    vertices, faces = mcubes.marching_cubes(values, 0.0)
    assert len(ours.faces) == len(faces)
    theirs = abs(signed_volume(Mesh(vertices, faces.astype(np.int32))))
    assert signed_volume(ours) == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize(
    ("sdf", "euler", "volume", "area"),
    [
        (sphere(0.7), 2, 4 / 3 * np.pi * 0.7**3, 4 * np.pi * 0.7**2),
        (TORUS, 0, 2 * np.pi**2 * 0.55 * 0.2**2, 4 * np.pi**2 * 0.55 * 0.2),
        (
            union(sphere(0.3, (-0.5, 0, 0)), sphere(0.3, (0.5, 0, 0))),
            *(4, 8 / 3 * np.pi * 0.3**3, 8 * np.pi * 0.3**2),
        ),
    ],
)
def test_analytic_surfaces(sdf, euler, volume, area):
    mesh = extract_zero_level(sdf, 128, MeshSettings(keep="all")).mesh
    assert len(open_edges(mesh)) == 0
    assert faces_around_are_one_fan(mesh)
    assert len(mesh.vertices) - len(mesh.faces) // 2 == euler
    assert signed_volume(mesh) == pytest.approx(volume, rel=2e-3)
    assert np.linalg.norm(area_vectors(mesh), axis=1).sum() == pytest.approx(area, rel=2e-3)
    # the chord's sagitta on the most curved of them: h^2 / 8r
    assert sdf(torch.from_numpy(mesh.vertices)).abs().max() < (2 / 128) ** 2 / 8 / 0.2


@pytest.mark.parametrize("sdf", [TORUS, distorted(TORUS, 4.0, 0.5), sphere(0.9, (0.5, 0, 0))])
@pytest.mark.parametrize("resolution", [101, 128])
def test_sparse_is_dense(sdf, resolution):
    """Exactly the cells, values and mesh that all nodes give."""
    line = torch.arange(resolution + 1).double() * (2 / resolution) - 1
    points = torch.cartesian_prod(line, line, line).float()
    values = sdf(points).reshape((len(line),) * 3).numpy()
    dense, sparse = marching_cubes(dense_grid(values)), marching_cubes(sample(sdf, resolution))
    assert len(dense.faces) == len(sparse.faces)
    order = [np.lexsort(found.vertices.numpy().T) for found in (dense, sparse)]
    np.testing.assert_array_equal(dense.vertices[order[0]], sparse.vertices[order[1]])
    volumes = [signed_volume(Mesh(f.vertices.numpy(), f.faces.numpy())) for f in (dense, sparse)]
    assert volumes[0] == pytest.approx(volumes[1], rel=1e-12)


def test_the_mesh_does_not_depend_on_how_much_is_done_at_once(monkeypatch):
    whole = extract_zero_level(TORUS, 110, MeshSettings()).mesh
    for points, cells in [(1 << 11, 1000), (1 << 20, 1 << 20)]:
        monkeypatch.setitem(node_cache.POINTS, "cpu", points)
        monkeypatch.setitem(sparse_marching_cubes.CELLS, "cpu", cells)
        other = extract_zero_level(TORUS, 110, MeshSettings()).mesh
        np.testing.assert_array_equal(whole.vertices, other.vertices)
        np.testing.assert_array_equal(whole.faces, other.faces)


@pytest.mark.parametrize("resolution", [50, 128, 240])
def test_no_node_is_evaluated_twice(resolution):
    seen = []

    def watched(x):
        seen.append(x.clone())
        return TORUS(x)

    grid = sample(watched, resolution)
    assert all(len(part) for part in seen)
    points = torch.cat(seen)
    assert len(points) == grid.evaluations
    assert len(torch.round((points + 1) * resolution / 2).unique(dim=0)) == len(points)


def test_chains_and_rings_of_faces_are_components():
    rng = np.random.default_rng(0)
    # strips of triangles with their vertices in random order: long chains for label spreading
    strips, length = 5, 400
    names = rng.permutation(strips * length).reshape(strips, length)
    faces = np.concatenate([np.stack([s[:-2], s[1:-1], s[2:]], 1) for s in names])
    found = components(torch.from_numpy(faces[rng.permutation(len(faces))]), names.size).numpy()
    for strip in names:
        assert (found[strip] == strip.min()).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60))
def test_components_are_those_of_scipy(seed, count):
    rng = np.random.default_rng(seed)
    faces = rng.integers(0, 80, (count, 3))
    found = components(torch.from_numpy(faces), 80).numpy()
    a, b, c = faces.T
    edges = coo_matrix((np.ones(2 * count), (np.r_[a, a], np.r_[b, c])), (80, 80))
    known = connected_components(edges, directed=False)[1]
    lowest = np.array([np.flatnonzero(known == label)[0] for label in known])
    np.testing.assert_array_equal(found, lowest)


def test_the_largest_component_is_the_one_of_the_largest_area():
    # the plate has the smaller volume but the larger area
    both = union(sphere(0.3, (0, 0, 0.6)), box(0.8, 0.8, 0.03))
    found = marching_cubes(sample(both, 128).without_zeros())
    kept, count = largest_component(found)
    assert count == 2
    assert kept.vertices[:, 2].abs().max() < 0.05
    assert kept.areas().sum() > 0.7 * found.areas().sum()


def test_no_vertex_on_a_node_and_no_thin_face():
    exact = Analytic(lambda x: x.abs().amax(1) - 0.5)
    mesh = extract_zero_level(exact, 64, MeshSettings()).mesh
    assert (np.linalg.norm(area_vectors(mesh), axis=1) > 0).all()
    assert len(open_edges(mesh)) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same_mesh():
    # exact on both: products and sums of few bits
    ball = Analytic(lambda x: (x * x).sum(-1) - 0.5)
    ours, theirs = (
        extract_zero_level(ball, 128, MeshSettings(), torch.device(name)).mesh
        for name in ("cpu", "cuda")
    )
    np.testing.assert_array_equal(ours.faces, theirs.faces)
    np.testing.assert_allclose(ours.vertices, theirs.vertices, atol=1e-9)
