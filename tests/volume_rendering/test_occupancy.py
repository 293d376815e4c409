"""The occupancy grid with a capacity."""

import pytest
import torch
from fixtures.rendering import SphereSDF
from fixtures.training import CPU, occupancy_grid

from pmni.volume_rendering.occupancy import cell_centres


def test_a_large_capacity_changes_nothing_and_a_small_one_is_safe() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(x - 0.1, dim=-1) - 0.5

    grids = [occupancy_grid(32, 0.02, CPU) for _ in range(3)]
    needed = int(grids[0].refresh(f))
    assert int(grids[1].refresh(f, needed + 20)) == needed
    assert torch.equal(grids[1].values, grids[0].values)
    assert int(grids[2].refresh(f, needed // 2)) == needed
    other = grids[2].values != grids[0].values
    assert other.any()
    assert not grids[2].values[other].any(), "zero: samples are taken there"


def test_the_grid_caches_f_near_the_surface_and_its_sign_elsewhere() -> None:
    sphere = SphereSDF(0.5, (0.1, 0.0, -0.2))
    grid = occupancy_grid(64, 0.02, CPU)
    assert not grid.values.any(), "nothing is known yet"
    grid.refresh(sphere)
    x = cell_centres(64, CPU).view(-1, 3)
    torch.testing.assert_close(grid.sample(x), grid.values.view(-1))
    value = sphere(x)
    near = value.abs() < 0.1
    torch.testing.assert_close(grid.sample(x)[near], value[near])
    assert torch.equal(grid.sample(x)[~near] > 0, value[~near] > 0)
    anywhere = 2 * torch.rand(20000, 3) - 1
    value, found = sphere(anywhere), grid.sample(anywhere)
    near = value.abs() < 0.08
    torch.testing.assert_close(found[near], value[near], atol=7e-4, rtol=0)
    assert (found[~near].abs() > 0.07).all()
    assert grid.sample(torch.tensor([[1.2, 0, 0]])) > 0.3


def test_half_a_cell_bounds_the_interpolation_error_of_a_thin_sheet() -> None:
    """However it lies; and so much is added to the truncation."""
    grid = occupancy_grid(32, 1.0, CPU)
    generator = torch.Generator().manual_seed(0)
    x = 1.6 * torch.rand(5000, 3, generator=generator) - 0.8
    truncation = float(grid.truncation(torch.tensor(1e9)))
    for seed in range(10):
        normal = torch.randn(3, generator=generator.manual_seed(seed))
        normal /= normal.norm()
        grid.refresh(lambda x, n=normal, at=seed / 300: (x @ n - at).abs())
        on = x - (x @ normal - seed / 300)[:, None] * normal
        on = on[on.abs().amax(-1) < 0.9]
        assert grid.sample(on).max() < truncation
    assert truncation == pytest.approx(1 / 32)


def test_the_truncation_follows_the_sharpness() -> None:
    grid = occupancy_grid(32, 0.03, CPU)
    assert float(grid.truncation(torch.tensor(10.0))) == pytest.approx(0.03 + 1 / 32)
    assert float(grid.truncation(torch.tensor(1000.0))) == pytest.approx(5 / 1000 + 1 / 32)
