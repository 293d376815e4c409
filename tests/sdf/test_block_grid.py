"""The sparse grid against functions whose values and derivatives are known."""

import itertools

import pytest
import torch

from pmni.sdf.block_grid import BLOCK, BlockGrid, trilinear, trilinear_gradient

CPU = torch.device("cpu")
CELLS = 32
SLOPE = torch.tensor([0.7, -1.1, 0.4])
FORM = torch.tensor([[0.8, 0.3, -0.2], [0.3, -0.5, 0.6], [-0.2, 0.6, 0.4]])


def shell(cells: int = CELLS, radius: float = 0.6) -> BlockGrid:
    """The blocks near a sphere."""
    side = cells // BLOCK + 1
    axis = (torch.arange(side) * BLOCK + 1.5) * (2 / cells) - 1
    centres = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    return BlockGrid(cells, (centres.norm(dim=-1) - radius).abs() < 6 * 2 / cells)


GRIDS = {"dense": BlockGrid.dense(CELLS, CPU), "sparse": shell()}
each_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())


def linear(x: torch.Tensor) -> torch.Tensor:
    return x @ SLOPE + 0.2


def quadratic(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * (x @ FORM * x).sum(-1) + linear(x)


def random_points(count: int, side: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return (torch.rand(count, 3, generator=generator) * 2 - 1) * side


def random_values(grid: BlockGrid, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(grid), generator=torch.Generator().manual_seed(seed))


def interior(grid: BlockGrid) -> torch.Tensor:
    """The nodes all of whose neighbours are on."""
    steps = torch.cat([torch.eye(3), -torch.eye(3)]).long()
    return (grid.node_indices(grid.nodes()[:, None] + steps) >= 0).all(-1)


# ---------------------------------------------------------------------------------- the nodes
def test_nodes_lie_where_the_docstring_says() -> None:
    grid = GRIDS["dense"]
    assert len(grid) == 9**3 * BLOCK**3  # the last blocks reach beyond the box
    row = grid.node_indices(torch.tensor([[0, 0, 0], [16, 32, 8]]))
    assert torch.equal(grid.positions()[row], torch.tensor([[-1.0, -1, -1], [0, 1, -0.5]]))


@each_grid
def test_rows_and_nodes_are_inverses(grid) -> None:
    assert torch.equal(grid.node_indices(grid.nodes()), torch.arange(len(grid)))


def test_rows_of_what_is_off_are_minus_one() -> None:
    grid = GRIDS["sparse"]
    everywhere = GRIDS["dense"].nodes()
    on = grid.active[tuple((everywhere // BLOCK).unbind(-1))]
    assert torch.equal(grid.node_indices(everywhere) >= 0, on)
    assert 0 < on.sum() < len(on)
    far = torch.tensor([[-1, 0, 0], [-200, 5, 5], [5, 36, 5], [5, 5, 4000]])
    assert (GRIDS["dense"].node_indices(far) == -1).all()


def test_a_single_block() -> None:
    active = torch.zeros(9, 9, 9, dtype=torch.bool)
    active[3, 0, 8] = True
    grid = BlockGrid(CELLS, active)
    assert len(grid) == BLOCK**3
    assert grid.nodes().amin(0).tolist() == [12, 0, 32]
    assert grid.nodes().amax(0).tolist() == [15, 3, 35]


# ------------------------------------------------------------------------------ inside a cell
@each_grid
def test_interpolation_is_exact_on_linear_functions(grid) -> None:
    x = random_points(4000)
    rows, place, inside = grid.cell_corners(x)
    assert (place >= 0).all()
    assert (place <= 1).all()
    found = (trilinear(place) * linear(grid.positions())[rows]).sum(-1)
    assert inside.sum() > 500
    torch.testing.assert_close(found[inside], linear(x)[inside], atol=2e-6, rtol=0)


@each_grid
def test_gradient_of_the_interpolation_is_exact_on_linear_functions(grid) -> None:
    rows, place, inside = grid.cell_corners(random_points(4000))
    weights = trilinear_gradient(place, grid.spacing)
    found = (weights @ linear(grid.positions())[rows][..., None])[..., 0]
    expected = SLOPE.expand_as(found)
    torch.testing.assert_close(found[inside], expected[inside], atol=2e-5, rtol=0)


def test_gradient_of_the_weights_is_their_derivative() -> None:
    place, step = torch.rand(50, 3, dtype=torch.float64), 1e-6
    weights = trilinear_gradient(place, 0.25)
    for axis in range(3):
        shift = step * torch.eye(3, dtype=torch.float64)[axis]
        slope = (trilinear(place + shift) - trilinear(place - shift)) / (2 * step * 0.25)
        torch.testing.assert_close(weights[:, axis], slope, atol=1e-8, rtol=0)


def test_corners_are_the_nodes_around() -> None:
    grid = GRIDS["dense"]
    x = random_points(300)
    rows, place, _ = grid.cell_corners(x)
    corners = grid.nodes()[rows]
    lowest = ((x + 1) / grid.spacing).floor().long()
    order = [[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    assert torch.equal(corners, lowest[:, None] + torch.tensor(order))
    # at a corner its own weight is one
    assert torch.equal(trilinear(torch.tensor(order).float()), torch.eye(8))
    torch.testing.assert_close(corners[:, 0] * grid.spacing - 1 + place * grid.spacing, x)


def test_points_count_as_inside_only_with_all_corners() -> None:
    grid = GRIDS["sparse"]
    x = random_points(4000, side=1.4)
    rows, _, inside = grid.cell_corners(x)
    lowest = ((x + 1) / grid.spacing).floor().long()
    order = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    assert torch.equal(inside, (grid.node_indices(lowest[:, None] + order) >= 0).all(-1))
    assert (rows[~inside] == 0).all()
    assert (rows >= 0).all()


@pytest.mark.parametrize("far", [-1e4, -1.3, 1.3, 1e4])
def test_points_far_outside_are_outside(far) -> None:
    assert not GRIDS["dense"].cell_corners(torch.tensor([[0.0, far, 0.0]]))[2].any()


# ------------------------------------------------------------------------------- differences
@each_grid
def test_gradient_is_exact_on_linear_functions_even_at_the_border(grid) -> None:
    found = grid.gradient(linear(grid.positions()))
    single = ~interior(grid) & (found == 0).any(-1)
    assert not single.any()  # every node has a neighbour along each axis in its own block
    torch.testing.assert_close(found, SLOPE.expand_as(found), atol=2e-5, rtol=0)


@each_grid
def test_gradient_is_exact_on_quadratic_functions_within(grid) -> None:
    x = grid.positions()
    found, inner = grid.gradient(quadratic(x)), interior(grid)
    assert inner.sum() > 1000
    torch.testing.assert_close(found[inner], (x @ FORM + SLOPE)[inner], atol=5e-5, rtol=0)


@each_grid
def test_laplacian_of_linear_and_quadratic_functions(grid) -> None:
    x, inner = grid.positions(), interior(grid)
    assert grid.laplacian(linear(x))[inner].abs().max() < 1e-5
    expected = -(grid.spacing**2) * float(torch.trace(FORM))
    found = grid.laplacian(quadratic(x))[inner]
    torch.testing.assert_close(found, torch.full_like(found, expected), atol=1e-5, rtol=0)


@each_grid
def test_laplacian_is_that_of_a_graph(grid) -> None:
    """Constants vanish, it is symmetric, and v^T L v is the sum of squared differences."""
    assert grid.laplacian(torch.ones(len(grid))).abs().max() == 0
    a, b = random_values(grid, 1).double(), random_values(grid, 2).double()
    assert float(a @ grid.laplacian(b)) == pytest.approx(float(b @ grid.laplacian(a)), rel=1e-10)
    squares = 0.0
    for step in torch.eye(3).long():
        neighbour = grid.node_indices(grid.nodes() + step)
        on = neighbour >= 0
        squares += float(((a[on] - a[neighbour[on]]) ** 2).sum())
    assert float(a @ grid.laplacian(a)) == pytest.approx(squares, rel=1e-10)


# ------------------------------------------------------------------------------------- levels
@each_grid
def test_the_coarser_grid_has_the_blocks_of_all_parents_and_no_others(grid) -> None:
    coarse = grid.coarser
    assert coarse.cells == grid.cells // 2
    needed = torch.zeros_like(coarse.active)
    for shift in itertools.product((0, 1), repeat=3):
        parents = (grid.nodes() + torch.tensor(shift)).div(2, rounding_mode="floor")
        assert (coarse.node_indices(parents) >= 0).all()
        needed[tuple((parents // BLOCK).unbind(-1))] = True
    assert torch.equal(coarse.active, needed)


@each_grid
def test_prolong_interpolates(grid) -> None:
    """Exactly what the coarse grid's cells give at the fine nodes."""
    coarse = grid.coarser
    values = random_values(coarse)
    x = grid.positions()
    rows, place, inside = coarse.cell_corners(x)
    expected = (values[rows] * trilinear(place)).sum(-1)
    found = grid.prolong(values)
    assert inside.sum() > 0.4 * len(grid)
    torch.testing.assert_close(found[inside], expected[inside], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        grid.prolong(linear(coarse.positions())), linear(x), atol=1e-5, rtol=0
    )


@each_grid
def test_restrict_is_the_transpose_of_prolong(grid) -> None:
    fine, coarse = random_values(grid).double(), random_values(grid.coarser, 1).double()
    grid32 = grid.prolong(coarse.float()).double()
    left, right = float(fine @ grid32), float(grid.restrict(fine.float()).double() @ coarse)
    assert left == pytest.approx(right, abs=1e-5 * float(fine.norm() * coarse.norm()))


def test_levels_down_to_eight_cells() -> None:
    grid = shell(128, 0.5)
    sizes = []
    while grid.cells > 8:
        grid = grid.coarser
        sizes.append(grid.cells)
        assert (grid.prolong(torch.ones(len(grid.coarser))) == 1).all()
    assert sizes == [64, 32, 16, 8]


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_nodes_that_a_coarser_grid_has_too(stride) -> None:
    grid = shell()
    rows, on = grid.coarser_nodes(stride)
    side = grid.cells // stride + 1
    nodes = torch.stack(torch.meshgrid(*[torch.arange(side) * stride] * 3, indexing="ij"), dim=-1)
    expected = grid.node_indices(nodes)
    assert torch.equal(on, expected >= 0)
    assert torch.equal(rows, expected[expected >= 0])
    assert 0 < on.sum() < on.numel()
