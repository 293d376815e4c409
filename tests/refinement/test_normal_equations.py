"""The linear solver of refinement against a dense least-squares solution."""

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from pmni.config.refinement import LinearSolverSettings
from pmni.refinement.normal_equations import (
    NormalEquations,
    Prior,
    WeightedResiduals,
    dot,
    multigrid,
    parts,
)
from pmni.refinement.residuals import Residuals
from pmni.refinement.state import OFFSET, SHARED_UNKNOWNS, VIEW_UNKNOWNS, Increment
from pmni.sdf.block_grid import BlockGrid, trilinear, trilinear_gradient
from pmni.sdf.grid import GridSDF
from pmni.sdf.narrow_band import NarrowBandSDF

CPU = torch.device("cpu")
VIEWS, PIXELS, POINTS = 3, 200, 40
SETTINGS = LinearSolverSettings(damping=1e-3)


@cache
def grid() -> BlockGrid:
    """8 blocks of 125."""
    active = torch.zeros(5, 5, 5, dtype=torch.bool)
    active[:2, 1:3, 2:4] = True
    return BlockGrid(16, active)


def with_values(grid: BlockGrid, values: Tensor) -> NarrowBandSDF:
    """The background is of no importance here."""
    return NarrowBandSDF(grid, values, GridSDF(torch.zeros(3, 3, 3)))


@cache
def surface() -> NarrowBandSDF:
    """A rough one, of which some nodes are too far away to be smoothed."""
    generator = torch.Generator().manual_seed(1)
    values = (
        torch.randn(len(grid()), generator=generator) * SETTINGS.thin_plate_cells * grid().spacing
    )
    return with_values(grid(), values)


def residuals(count: int, components: int, generator: torch.Generator) -> Residuals:
    """Of random points within the grid, with random derivatives by the cameras."""
    total = VIEWS * count
    lowest = grid().positions().amin(0)
    x = lowest + torch.rand(total, 3, generator=generator) * 6.9 * grid().spacing
    rows, place, inside = grid().cell_corners(x)
    assert inside.all()
    weights = (
        trilinear_gradient(place, grid().spacing) if components == 3 else trilinear(place)[:, None]
    )
    scale = torch.logspace(-1, 1, VIEW_UNKNOWNS)
    return Residuals(
        value=torch.randn(total, components, generator=generator),
        nodes=rows,
        weights=weights,
        view_jacobian=torch.randn(total, components, VIEW_UNKNOWNS, generator=generator) * scale,
        shared_jacobian=torch.randn(total, components, SHARED_UNKNOWNS, generator=generator),
        valid=(torch.rand(total, generator=generator) < 0.9).float(),
    )


@dataclass(frozen=True)
class Problem:
    terms: tuple[WeightedResiduals, ...]
    prior: Prior
    free_view: Tensor
    free_shared: Tensor
    surface: NarrowBandSDF

    def equations(self, kind: type[NormalEquations] = NormalEquations) -> NormalEquations:
        return kind(
            self.surface, self.terms, VIEWS, self.prior, self.free_view, self.free_shared, SETTINGS
        )


@cache
def problem() -> Problem:
    """Normals and contours, all unknowns free."""
    generator = torch.Generator().manual_seed(0)
    terms = []
    for count, components, strength in ((PIXELS, 3, 1.0), (POINTS, 1, 4.0)):
        r = residuals(count, components, generator)
        weight = r.valid * (0.2 + torch.rand(len(r.valid), generator=generator)) * strength
        terms.append(WeightedResiduals(r, weight.sqrt()))
    prior = Prior(
        view_weight=torch.rand(VIEWS, VIEW_UNKNOWNS, generator=generator) * 20,
        view_value=torch.randn(VIEWS, VIEW_UNKNOWNS, generator=generator),
        shared_weight=torch.tensor([3.0, 0.0]),
        shared_value=torch.tensor([0.5, 0.0]),
    )
    free = torch.ones(VIEW_UNKNOWNS).bool(), torch.ones(SHARED_UNKNOWNS).bool()
    return Problem(tuple(terms), prior, *free, surface())


def held(*, poses: bool = False, shared: bool = False) -> Problem:
    """Some unknowns are not free."""
    free_view, free_shared = problem().free_view.clone(), problem().free_shared.clone()
    free_view[:6] &= not poses
    free_shared[:] &= not shared
    return replace(problem(), free_view=free_view, free_shared=free_shared)


# ---------------------------------------------------------------------- the dense counterpart
def flat(x: Increment) -> Tensor:
    return torch.cat([x.surface, x.views.reshape(-1), x.shared]).double()


def unflat(v: Tensor) -> Increment:
    surface, views, shared = v.float().split([len(grid()), VIEWS * VIEW_UNKNOWNS, SHARED_UNKNOWNS])
    return Increment(surface, views.view(VIEWS, VIEW_UNKNOWNS), shared)


def dense_rows(given: Problem, density: float) -> tuple[Tensor, Tensor]:
    """The rows A and right sides b of min |A q - b|^2, written down one by one, float64."""
    nodes, unknowns = len(grid()), len(grid()) + VIEWS * VIEW_UNKNOWNS + SHARED_UNKNOWNS
    free = torch.cat(
        [torch.ones(nodes), given.free_view.float().repeat(VIEWS), given.free_shared.float()]
    ).double()
    blocks, sides = [], []
    squares = torch.zeros(VIEWS, VIEW_UNKNOWNS, dtype=torch.float64)
    for term in given.terms:
        r, w = term.residuals, term.root_weight.double()
        count, components = r.value.shape
        A = torch.zeros(count, components, unknowns, dtype=torch.float64)
        index = r.nodes[:, None].expand(-1, components, -1)
        A.scatter_add_(2, index, -r.weights.double())
        for view in range(VIEWS):
            mine = slice(view * count // VIEWS, (view + 1) * count // VIEWS)
            start = nodes + view * VIEW_UNKNOWNS
            A[mine, :, start : start + VIEW_UNKNOWNS] = r.view_jacobian[mine].double()
            weighted = r.view_jacobian[mine].double() * w[mine, None, None]
            squares[view] += (weighted**2).sum((0, 1))
        A[..., -SHARED_UNKNOWNS:] = r.shared_jacobian.double()
        blocks.append((A * w[:, None, None]).view(-1, unknowns))
        sides.append(-(r.value.double() * w[:, None]).view(-1))
    # prior and damping
    views = slice(nodes, nodes + VIEWS * VIEW_UNKNOWNS)
    weight = torch.zeros(unknowns, dtype=torch.float64)
    value = torch.zeros(unknowns, dtype=torch.float64)
    weight[views], value[views] = given.prior.view_weight.view(-1), given.prior.view_value.view(-1)
    weight[-SHARED_UNKNOWNS:] = given.prior.shared_weight
    value[-SHARED_UNKNOWNS:] = given.prior.shared_value
    blocks.append(torch.diag(weight.sqrt()))
    sides.append(-weight.sqrt() * value)
    damping = torch.zeros(unknowns, dtype=torch.float64)
    damping[views] = SETTINGS.damping * squares.view(-1)
    blocks.append(torch.diag(damping.sqrt()))
    # the gradient_term: differences of neighbours, and a little of the values themselves
    laplacian = torch.zeros(nodes, unknowns, dtype=torch.float64)
    for axis in torch.eye(3).long():
        neighbour = grid().node_indices(grid().nodes() + axis)
        there = torch.nonzero(neighbour >= 0)[:, 0]
        A = torch.zeros(len(there), unknowns, dtype=torch.float64)
        A[torch.arange(len(there)), there] = 1
        A[torch.arange(len(there)), neighbour[there]] = -1
        blocks.append(A * (SETTINGS.gradient_weight * density) ** 0.5)
        laplacian[there] += A
        laplacian[neighbour[there]] -= A
    values = torch.zeros(unknowns, dtype=torch.float64)
    values[:nodes] = (SETTINGS.gradient_weight * density * 1e-3) ** 0.5
    blocks.append(torch.diag(values))
    # the bending of the surface with its increment, near the surface
    f, h = given.surface.values.double(), given.surface.grid.spacing
    strength = (
        SETTINGS.thin_plate_weight / 3 / h**2 * (f.abs() <= SETTINGS.thin_plate_cells * h)
    ).sqrt()
    blocks.append(laplacian * strength[:, None])
    bent = strength * (laplacian[:, :nodes] @ f)
    A = torch.cat(blocks) * free
    b = torch.zeros(len(A), dtype=torch.float64)
    b[: sum(map(len, sides))] = torch.cat(sides)
    b[-nodes:] = -bent
    return A, b


@cache
def dense(poses: bool = False, shared: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """A, b, and the least-squares solution of the smallest length: 0 for what is not free."""
    given = held(poses=poses, shared=shared)
    A, b = dense_rows(given, float(given.equations().density))
    # the normal equations are small and well scaled enough for float64
    solution = torch.linalg.lstsq(A, b[:, None], driver="gelsd").solution[:, 0]
    return A, b, solution


def energy(A: Tensor, error: Tensor) -> float:
    return float((A @ error).norm())


# ---------------------------------------------------------------------------------- the matrix
@pytest.mark.parametrize("held_too", [False, True])
def test_matrix_and_right_side_are_those_of_the_least_squares(held_too: bool) -> None:
    equations = held(poses=held_too, shared=held_too).equations()
    A, b, _ = dense(held_too, held_too)
    free = A.abs().sum(0) > 0
    assert free.all() or held_too
    for seed in range(3):
        v = torch.randn(A.shape[1], generator=torch.Generator().manual_seed(seed)).double() * free
        found, expected = flat(equations.apply(unflat(v))), A.T @ (A @ v)
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    side = A.T @ b
    assert (flat(equations.rhs()) - side).abs().max() < 1e-5 * side.abs().max()


def test_matrix_is_symmetric_and_positive() -> None:
    equations = problem().equations()
    size = dense()[0].shape[1]
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        a, b = (unflat(torch.randn(size, generator=generator)) for _ in range(2))
        left, right = float(dot(a, equations.apply(b))), float(dot(equations.apply(a), b))
        size_of = float(flat(equations.apply(a)).norm() * flat(b).norm())
        assert left == pytest.approx(right, abs=1e-5 * size_of)
        assert float(dot(a, equations.apply(a))) > 0
    # the surface is held even where no ray passes, by the gradient_term alone
    eigenvalues = torch.linalg.eigvalsh(dense()[0].T @ dense()[0])
    assert eigenvalues[0] > 0


# ------------------------------------------------------------------------------- the solution
@pytest.mark.parametrize(("poses", "shared"), [(False, False), (True, False), (True, True)])
def test_the_solution_is_that_of_dense_least_squares(poses: bool, shared: bool) -> None:
    equations = held(poses=poses, shared=shared).equations()
    A, _, solution = dense(poses, shared)
    found = flat(equations.solve(400))
    assert energy(A, found - solution) < 1e-4 * energy(A, solution)
    nodes = len(grid())
    assert (found - solution)[nodes:].abs().max() < 1e-3 * solution[nodes:].abs().max()
    assert (found - solution)[:nodes].abs().max() < 5e-3 * solution[:nodes].abs().max()


def test_more_iterations_are_nearer_the_solution() -> None:
    equations = problem().equations()
    A, _, solution = dense()
    errors = [energy(A, flat(equations.solve(n)) - solution) for n in (0, 5, 20, 60, 150)]
    assert errors[0] == pytest.approx(energy(A, solution))
    assert all(later < 0.7 * earlier for earlier, later in pairwise(errors))


def test_what_is_not_free_stays() -> None:
    step = held(poses=True, shared=True).equations().solve(30)
    assert (step.views[:, :6] == 0).all()
    assert (step.shared == 0).all()
    assert step.views[:, OFFSET].abs().min() > 0
    one = replace(problem(), free_shared=torch.tensor([True, False]))
    step = one.equations().solve(30)
    assert step.shared[0] != 0
    assert step.shared[1] == 0


def test_residuals_without_weight_do_not_matter() -> None:
    given = problem()
    normals, contours = given.terms
    wild = torch.where(normals.root_weight == 0, 1e3, 1.0)
    r = replace(normals.residuals, value=normals.residuals.value * wild[:, None])
    changed = replace(given, terms=(WeightedResiduals(r, normals.root_weight), contours))
    assert torch.equal(flat(changed.equations().solve(20)), flat(given.equations().solve(20)))


def test_at_the_solution_there_is_nothing_to_do() -> None:
    given = problem()
    terms = tuple(
        WeightedResiduals(replace(t.residuals, value=0 * t.residuals.value), t.root_weight)
        for t in given.terms
    )
    prior = replace(given.prior, view_value=0 * given.prior.view_value,
                    shared_value=torch.zeros(2))  # fmt: skip
    flat_surface = with_values(grid(), torch.full((len(grid()),), 0.1 * grid().spacing))
    at_rest = replace(given, terms=terms, prior=prior, surface=flat_surface)
    assert flat(at_rest.equations().solve(20)).abs().max() < 1e-6


def test_a_bump_that_hardly_any_ray_measures_is_smoothed() -> None:
    """A plane with a bump at a node: rays see a plane, many or few of them."""
    wide = BlockGrid.dense(16, CPU)
    height = wide.positions()[:, 2] + 0.03
    middle = wide.node_indices(torch.tensor([[8, 8, 8]]))
    bump = torch.zeros(len(wide))
    bump[middle] = 0.02
    given = problem()
    fixed = torch.zeros(VIEW_UNKNOWNS, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)

    def left(count: int, measured: Tensor) -> float:
        """The bump after a step, relative; all rays measure the slopes of a function."""
        x = torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.7
        x[:, 2] = -0.03 + 0.1 * x[:, 2]
        rows, place, _ = wide.cell_corners(x)
        weights = trilinear_gradient(place, wide.spacing)
        r = Residuals(
            value=(weights @ (measured - height - bump)[rows][..., None])[..., 0],
            nodes=rows,
            weights=weights,
            view_jacobian=torch.zeros(count, 3, VIEW_UNKNOWNS),
            shared_jacobian=torch.zeros(count, 3, SHARED_UNKNOWNS),
            valid=torch.ones(count),
        )
        terms = (WeightedResiduals(r, torch.ones(count)),)
        bumpy = with_values(wide, height + bump)
        step = NormalEquations(bumpy, terms, VIEWS, given.prior, *fixed, SETTINGS).solve(100)
        return float((bump + step.surface)[middle] / 0.02)

    # a bump that many rays measure stays, one that few measure sinks
    assert left(30_000, height + bump) > 0.95
    assert left(30, height + bump) < 0.7
    assert left(30_000, height) < 0.1


# ---------------------------------------------------------------------------- preconditioning
class Plain(NormalEquations):
    """Without preconditioner."""

    def precondition(self, r: Increment) -> Increment:
        return r


class OneGrid(NormalEquations):
    """Without the coarser grids."""

    def precondition(self, r: Increment) -> Increment:
        return replace(super().precondition(r), surface=r.surface / self.density)


def test_preconditioner_is_symmetric_and_positive() -> None:
    equations = problem().equations()
    size = dense()[0].shape[1]
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        a, b = (unflat(torch.randn(size, generator=generator)) for _ in range(2))
        left, right = (
            float(dot(a, equations.precondition(b))),
            float(dot(equations.precondition(a), b)),
        )
        scale = float(flat(equations.precondition(a)).norm() * flat(b).norm())
        assert left == pytest.approx(right, abs=1e-5 * scale)
        assert float(dot(a, equations.precondition(a))) > 0


def test_preconditioner_needs_a_quarter_of_the_iterations() -> None:
    given = problem()
    A, _, solution = dense()
    plain = given.equations(Plain)
    after_40 = energy(A, flat(given.equations().solve(40)) - solution)
    assert after_40 < energy(A, flat(plain.solve(160)) - solution)


def test_coarser_grids_need_fewer_iterations() -> None:
    """Normals near a sphere on 32 cells, of which a bump is to be found."""
    wide = BlockGrid.dense(32, CPU)
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(6000, 3, generator=generator), dim=-1) * 0.6
    rows, place, _ = wide.cell_corners(x + 0.03 * torch.randn(6000, 3, generator=generator))
    weights = trilinear_gradient(place, wide.spacing)
    bump = torch.exp(-4 * (wide.positions() - torch.tensor([0.6, 0, 0])).square().sum(-1))
    r = Residuals(
        value=(weights @ bump[rows][..., None])[..., 0],
        nodes=rows,
        weights=weights,
        view_jacobian=torch.zeros(6000, 3, VIEW_UNKNOWNS),
        shared_jacobian=torch.zeros(6000, 3, SHARED_UNKNOWNS),
        valid=torch.ones(6000),
    )
    given = problem()
    fixed = torch.zeros(VIEW_UNKNOWNS, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)

    def left(kind: type[NormalEquations], iterations: int) -> float:
        """The root mean square of what remains of the residuals, relative."""
        terms = (WeightedResiduals(r, torch.ones(6000)),)
        smooth = with_values(wide, torch.zeros(len(wide)))
        step = kind(smooth, terms, VIEWS, given.prior, *fixed, SETTINGS).solve(iterations)
        rest = r.value - (weights @ step.surface[rows][..., None])[..., 0]
        return float(rest.norm() / r.value.norm())

    assert left(NormalEquations, 15) < 0.5 * left(OneGrid, 15)
    assert left(NormalEquations, 15) < left(OneGrid, 30)


def test_the_sum_over_grids_spreads_a_value_to_all_its_ancestors() -> None:
    """By hand: a unit at a node of all grids stays there once on each, and reaches its cell's."""
    wide = BlockGrid.dense(32, CPU)
    r = torch.zeros(len(wide))
    node = wide.node_indices(torch.tensor([[8, 8, 16]]))
    r[node] = 1.0
    assert torch.equal(multigrid(wide, r, 1, 8), r)
    for levels in (2, 3):  # 16 and 8 cells; 8 is the fewest
        spread = multigrid(wide, r, levels, 8)
        assert float(spread[node]) == levels
        beside = wide.node_indices(torch.tensor([[9, 8, 16], [10, 8, 16], [9, 9, 16]]))
        expected = [[0.5, 0.0, 0.25], [0.5 + 0.75, 0.5, 0.25 + 0.75**2]][levels - 2]
        assert spread[beside].tolist() == pytest.approx(expected)
    assert torch.equal(multigrid(wide, r, 6, 8), multigrid(wide, r, 3, 8))


def test_a_kernel_multiplies_by_the_data_s_part_in_one_pass() -> None:
    """In Triton's interpreter, or on a GPU; the two terms have 3 components and 1."""
    pytest.importorskip("triton")
    from pmni.kernels.normal_equations import add_product

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reference = problem().equations()
    x = unflat(torch.randn(len(flat(reference.rhs())), generator=torch.Generator().manual_seed(4)))
    expected = reference._transposed_product(reference._jacobian_product(x))
    found = tuple(torch.ones_like(part, device=device) for part in parts(x))
    for term in reference.terms:
        jacobians = term.weights, term.view_jacobian, term.shared_jacobian
        given = (*parts(x), term.nodes.int(), *jacobians)
        add_product(*(tensor.to(device) for tensor in given), found)
    for sums, part in zip(found, parts(expected), strict=True):
        torch.testing.assert_close(sums.cpu() - 1, part, atol=1e-4, rtol=1e-4)
