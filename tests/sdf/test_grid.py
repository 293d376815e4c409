"""The dense-grid SDF."""

import pytest
import torch

from pmni.sdf.grid import GridSDF, grid_nodes


def test_grid_sdf_is_exact_on_linear_functions() -> None:
    normal = torch.tensor([0.6, -0.8, 0.0])
    grid = GridSDF(grid_nodes(9, torch.device("cpu")) @ normal - 0.1)
    generator = torch.Generator().manual_seed(3)
    x = (torch.rand(100, 3, generator=generator) * 2 - 1) * 0.9
    value, gradient = grid.value_and_gradient(x)
    torch.testing.assert_close(value, x @ normal - 0.1)
    torch.testing.assert_close(gradient, normal.expand(100, 3))


def test_grid_sdf_indexes_x_first() -> None:
    nodes = grid_nodes(5, torch.device("cpu"))
    assert nodes[4, 0, 2].tolist() == [1.0, -1.0, 0.0]
    grid = GridSDF(nodes[..., 0])
    assert grid(torch.tensor([[0.5, 0.0, 0.0]])).item() == pytest.approx(0.5)
