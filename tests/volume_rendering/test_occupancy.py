"""The occupancy grid with a capacity."""

import torch
from fixtures.training import CPU, occupancy_grid


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
