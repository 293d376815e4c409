"""The surface on a sparse grid: accuracy, continuity, moving, reinitialisation, and its file.

Limits. Trilinear interpolation over cells of the size h is off by at most h^2 / 8 times the sum of
|second derivatives| along the axes: h^2 / (4 r) for a sphere of radius r. Godunov's slopes are off
by at most h / 2 times the same sum, h / r; a distance grown over n cells by n h^2 / r.
"""

from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import torch
from fixtures.analytic_sdfs import Analytic, box, sphere

from pmni.config.refinement import NarrowBandSettings
from pmni.errors import InputError
from pmni.io.hashing import sidecar, write_checksum
from pmni.sdf.block_grid import BLOCK, BlockGrid
from pmni.sdf.checkpoint import load_surface, save_band
from pmni.sdf.grid import GridSDF, grid_nodes
from pmni.sdf.narrow_band import NarrowBandSDF, rebuild_band, reinitialize, resample
from pmni.sdf.reinitialization import reinitialize_dense_values, reinitialize_values, upwind_slope

CPU = torch.device("cpu")
RADIUS = 0.6
BAND = NarrowBandSettings()
GUARANTEED = 1.6
"""Cells from the surface within which every point is in the fine grid."""


def sampled(sdf: Analytic, nodes: int = 129) -> GridSDF:
    return GridSDF(sdf(grid_nodes(nodes, CPU).view(-1, 3)).view(nodes, nodes, nodes))


@cache
def sampled_ball() -> GridSDF:
    return sampled(sphere(RADIUS))


@cache
def ball(cells: int, sweeps: int = 6) -> NarrowBandSDF:
    return resample(sampled_ball(), cells, CPU, sweeps)


@cache
def directions(count: int = 4000) -> torch.Tensor:
    normal = torch.randn(count, 3, generator=torch.Generator().manual_seed(2))
    return torch.nn.functional.normalize(normal, dim=-1)


def shell(distance: float, radius: float = RADIUS) -> torch.Tensor:
    """Points at a distance from the sphere."""
    return directions() * (radius + distance)


def surface_radius(sdf: NarrowBandSDF, guess: float) -> torch.Tensor:
    """Where f changes its sign along rays from the origin."""
    low, high = guess - 2.5 * sdf.grid.spacing, guess + 2.5 * sdf.grid.spacing
    a, b = torch.full((4000,), low), torch.full((4000,), high)
    assert (sdf(a[:, None] * directions()) < 0).all()
    assert (sdf(b[:, None] * directions()) > 0).all()
    for _ in range(22):
        middle = (a + b) / 2
        outside = sdf(middle[:, None] * directions()) > 0
        a, b = torch.where(outside, a, middle), torch.where(outside, middle, b)
    return (a + b) / 2


# --------------------------------------------------------------------------- a sphere on a grid
@pytest.mark.parametrize("cells", [64, 128])
@pytest.mark.parametrize("away", [-3.0, -1.5, 0.0, 1.5, 3.0])
def test_a_sphere_is_a_sphere_to_second_order(cells: int, away: float) -> None:
    sdf = ball(cells)
    h = sdf.grid.spacing
    x = shell(away * h)
    value, gradient = sdf.value_and_gradient(x)
    torch.testing.assert_close(value, sdf(x), atol=5e-7, rtol=0)
    grown = max(
        abs(away) + 3**0.5 - BAND.fixed_cells, 0
    )  # cells over which a corner's distance was grown
    limit = h**2 / (4 * RADIUS) + grown * h**2 / RADIUS
    assert (value - away * h).abs().max() < 1.1 * limit
    # Godunov's slopes, and the differences of the corners' errors
    assert (gradient.norm(dim=-1) - 1).abs().max() < 1.5 * h / RADIUS
    across = gradient - (gradient * directions()).sum(-1, keepdim=True) * directions()
    assert across.norm(dim=-1).max() < h / RADIUS


def test_the_surface_is_off_by_a_quarter_on_half_the_cells() -> None:
    error = [ball(cells)(shell(0.0)).abs().max() for cells in (64, 128)]
    assert 3.8 < error[0] / error[1] < 4.2


def test_the_fine_grid_holds_what_is_near_the_surface_and_little_else() -> None:
    sdf = ball(128)
    h = sdf.grid.spacing
    for away in (-GUARANTEED, 0.0, GUARANTEED):
        assert sdf.grid.cell_corners(shell(away * h))[2].all()
    assert not sdf.grid.cell_corners(shell(14 * h))[2].any()
    assert len(sdf.grid) < 0.15 * len(BlockGrid.dense(128, CPU))
    assert len(ball(64).grid) == len(BlockGrid.dense(64, CPU))


def test_beyond_the_fine_grid_the_background_counts() -> None:
    sdf = ball(128)
    x = torch.rand(4000, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    outside = ~sdf.grid.cell_corners(x)[2]
    assert outside.sum() > 1000
    value, gradient = sdf.value_and_gradient(x)
    assert torch.equal(value[outside], sdf.background(x)[outside])
    assert torch.equal(gradient[outside], sdf.background.value_and_gradient(x)[1][outside])
    distance = x.norm(dim=-1) - RADIUS
    assert (value.sign() == distance.sign())[outside].all()
    # far from the surface the distance is limited, and never too long to be stepped along
    coarse = 2 / (len(sdf.background.values) - 1)
    assert float(value.abs().max()) == pytest.approx(BAND.truncation_cells * coarse)
    assert (value.abs() < distance.abs() + 0.1 * coarse).all()


def test_values_and_gradients_are_continuous_across_blocks() -> None:
    sdf = ball(128)
    h = sdf.grid.spacing
    x = shell(0.3 * h)
    border = ((x + 1) / h / BLOCK).round() * BLOCK * h - 1  # the nearest first nodes of blocks
    for axis in range(3):
        near = (x - border)[:, axis].abs() < h
        at = x[near].clone()
        at[:, axis] = border[near, axis]
        side = 2e-6 * torch.eye(3)[axis]
        below, above = (sdf.value_and_gradient(at + sign * side) for sign in (-1, 1))
        assert len(at) > 500
        assert (above[0] - below[0]).abs().max() < 8e-6
        assert (above[1] - below[1]).abs().max() < 1e-3  # it turns by 1 / r a unit of length


def test_fine_and_coarse_values_agree_where_the_band_ends() -> None:
    sdf = ball(128)
    x = torch.rand(400_000, 3, generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9
    step = 1e-4
    inside = sdf.grid.cell_corners(x)[2]
    leaves = inside & ~sdf.grid.cell_corners(x + step)[2]
    assert leaves.sum() > 30
    jump = (sdf(x[leaves] + step) - sdf(x[leaves])).abs().max()
    assert jump < 0.1 * sdf.grid.spacing


# -------------------------------------------------------------------------- the surface moves
def test_blocks_stay_while_the_surface_hardly_moves() -> None:
    sdf = ball(128)
    moved = NarrowBandSDF(sdf.grid, sdf.values - 0.2 * sdf.grid.spacing, sdf.background)
    assert rebuild_band(sdf) is sdf
    assert rebuild_band(moved) is moved


@pytest.mark.parametrize("cells_a_step", [-3.0, 3.0])
def test_the_band_is_rebuilt_around_the_surface(cells_a_step) -> None:
    sdf = ball(128)
    h = sdf.grid.spacing
    radius = RADIUS
    for _ in range(3):
        shifted = NarrowBandSDF(sdf.grid, sdf.values - cells_a_step * h, sdf.background)
        sdf = rebuild_band(reinitialize(shifted, 6))
        radius += cells_a_step * h
        for away in (-GUARANTEED, GUARANTEED):
            assert sdf.grid.cell_corners(shell(away * h, radius))[2].all()
        assert len(sdf.grid) < 0.25 * len(BlockGrid.dense(128, CPU))
    # each step reads the surface from values that were grown over at most 3 + sqrt(3) cells
    limit = (3 * (3 + 3**0.5 - BAND.fixed_cells) + 0.25) * h**2 / min(radius, RADIUS)
    assert (surface_radius(sdf, radius) - radius).abs().max() < limit < 0.6 * h


def test_finer_and_coarser_grids_keep_the_surface() -> None:
    coarse = ball(64)
    fine = resample(coarse, 128, CPU, sweeps=4)
    again = resample(fine, 64, CPU, sweeps=4)
    limit = coarse.grid.spacing**2 / (4 * RADIUS)  # of the coarse cells; the fine ones' is hidden
    for sdf in (fine, again):
        assert (surface_radius(sdf, RADIUS) - RADIUS).abs().max() < 1.3 * limit


# ------------------------------------------------------------------------------- reinitialisation
def with_slope(factor: float, wave: float, cells: int = 64) -> NarrowBandSDF:
    """The sphere's surface, but a function that is no distance."""
    exact = sphere(RADIUS)
    f = Analytic(lambda x: exact(x) * factor * (1 + wave * torch.sin(9 * x).prod(dim=-1)))
    grid = BlockGrid.dense(cells, CPU)
    return NarrowBandSDF(grid, f(grid.positions()), sampled(f, cells + 1))


@pytest.mark.parametrize(("factor", "wave"), [(0.6, 0.0), (1.0, 0.0), (1.6, 0.0), (1.0, 0.4)])
def test_reinitialisation_restores_the_slope_and_keeps_the_surface(
    factor: float, wave: float
) -> None:
    before = with_slope(factor, wave)
    after = reinitialize(before, 30)
    h = after.grid.spacing
    moved = (surface_radius(after, RADIUS) - surface_radius(before, RADIUS)).abs().max()
    if (
        factor * (1 + wave) * 3**0.5 < BAND.fixed_cells
    ):  # all corners of the surface's cells are frozen
        assert moved == 0
    assert moved < 0.04 * h
    frozen = BAND.fixed_cells / (factor * (1 - wave))
    for away in (frozen + 2, frozen + 3):
        for side in (-1, 1):
            _, gradient = after.value_and_gradient(shell(side * away * h))
            assert (gradient.norm(dim=-1) - 1).abs().max() < 2 * h / RADIUS


def test_a_sweep_reaches_half_a_cell() -> None:
    before = with_slope(1.3, 0.0)
    h = before.grid.spacing
    error = []
    for sweeps in (0, 6, 12, 24):
        after = reinitialize(before, sweeps)
        slope = after.value_and_gradient(shell(4 * h))[1].norm(dim=-1)
        error.append(float((slope - 1).abs().mean()))
    assert error[0] > 1.2 * error[1] > 4 * error[2] > 4 * error[3], error


def test_fixed_nodes_keep_their_values() -> None:
    sdf = with_slope(1.6, 0.4)
    fixed = torch.rand(len(sdf.values), generator=torch.Generator().manual_seed(0)) < 0.3
    after = reinitialize_values(sdf.grid, sdf.values, fixed, 5)
    assert torch.equal(after[fixed], sdf.values[fixed])
    assert not torch.equal(after[~fixed], sdf.values[~fixed])


def test_sparse_and_dense_reinitialisation_agree() -> None:
    """Away from the box's faces, which the sparse grid's blocks reach beyond."""
    sdf = with_slope(1.6, 0.4)
    n = len(sdf.background.values)
    near = sdf.background.values.abs() < 1.5 * sdf.grid.spacing
    rows = sdf.grid.node_indices(
        torch.stack(torch.meshgrid(*[torch.arange(n)] * 3, indexing="ij"), -1)
    )
    fixed = torch.zeros(len(sdf.grid), dtype=torch.bool)
    fixed[rows] = near
    dense = reinitialize_dense_values(sdf.background.values, near, 4)
    sparse = reinitialize_values(sdf.grid, sdf.values, fixed, 4)[rows]
    inner = slice(5, -5)
    torch.testing.assert_close(sparse[(inner,) * 3], dense[(inner,) * 3], atol=1e-5, rtol=0)


def test_upwind_slope_by_hand() -> None:
    """f = 2 x outside: the difference towards the surface counts; at a ridge the steeper one."""
    before, behind = torch.zeros(2, 2, 3).unbind()  # of the middle two of 0, 2, 4, 3.5 along x
    before[:, 0], behind[:, 0] = torch.tensor([2.0, 2.0]), torch.tensor([2.0, -0.5])
    outside = upwind_slope(before, behind, torch.ones(2, dtype=torch.bool))
    assert outside.tolist() == [2.0, 2.0]
    inside = upwind_slope(-before, -behind, torch.zeros(2, dtype=torch.bool))
    assert inside.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_a_plate_of_three_cells_survives(shift: float) -> None:
    """Step after step that changes nothing, as the last ones of a refinement."""
    cells = 128
    h = 2 / cells
    plate = box(0.5, 0.5, 1.5 * h)
    sdf = resample(sampled(Analytic(lambda x: plate(x - x.new_tensor([0, 0, shift * h])))), cells,
                  CPU, sweeps=4)  # fmt: skip
    for _ in range(5):
        sdf = rebuild_band(reinitialize(sdf, 6))
    spots = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 0.8 - 0.4
    height = torch.linspace(-4, 4, 801) + shift
    x = torch.cat([spots[:, None].expand(-1, 801, -1),
                   (height * h).expand(300, -1)[..., None]], dim=-1)  # fmt: skip
    inside = sdf(x.reshape(-1, 3)).view(300, 801) < 0
    thickness = inside.sum(-1) / 100  # cells
    assert (thickness - 3).abs().max() < 0.1
    middle = (inside * height).sum(-1) / inside.sum(-1)
    assert (middle - shift).abs().max() < 0.05


# ----------------------------------------------------------------------------------- the file
@pytest.mark.parametrize("cells", [64, 128])
def test_a_saved_surface_is_the_same(tmp_path: Path, cells: int) -> None:
    sdf = ball(cells)
    path = tmp_path / "surface.safetensors"
    save_band(path, sdf)
    again = load_surface(path, CPU)
    assert isinstance(again, NarrowBandSDF)
    assert again.grid.cells == cells
    assert torch.equal(again.grid.active, sdf.grid.active)
    x = torch.rand(2000, 3, generator=torch.Generator().manual_seed(1)) * 2.2 - 1.1
    for one, other in zip(again.value_and_gradient(x), sdf.value_and_gradient(x), strict=True):
        assert torch.equal(one, other)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "surface.safetensors"
    save_band(path, ball(64))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"surface\.safetensors: corrupted"):
        load_surface(path, CPU)
    sidecar(path).unlink()
    with pytest.raises(InputError, match=r"checksum .* is missing"):
        load_surface(path, CPU)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        load_surface(path, CPU)


@pytest.mark.parametrize("metadata", [None, {"cells": "many"}, {"cells": "64"}, {"other": "1"}])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, metadata) -> None:
    path = tmp_path / "surface.safetensors"
    path.write_bytes(safetensors.torch.save({"blocks": torch.zeros(2, 3)}, metadata))
    write_checksum(path)
    with pytest.raises(InputError, match="not a checkpoint of pmni"):
        load_surface(path, CPU)
