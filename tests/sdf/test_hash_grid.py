"""The hash grid: layout, interpolation, derivatives."""

import pytest
import torch
from torch import Tensor

from pmni.sdf.hash_grid import HashGrid, corner_indices, gather_rows, grid_levels, interpolate


def make(
    levels: int = 3, features: int = 2, log2_entries: int = 9, base: int = 4, growth: float = 2.0
) -> HashGrid:
    return HashGrid(
        levels, features, log2_entries, base, growth, torch.Generator().manual_seed(0)
    ).double()


def test_levels_are_laid_out_like_tiny_cuda_nn() -> None:
    first, second, third = grid_levels(3, log2_entries=9, base=4, growth=2.0)
    # scale = base * growth^level - 1, resolution = ceil(scale) + 1, sizes in multiples of 8
    assert [level.scale for level in (first, second, third)] == [3.0, 7.0, 15.0]
    assert [level.resolution for level in (first, second, third)] == [4, 8, 16]
    assert [level.entries for level in (first, second, third)] == [64, 512, 512]
    assert [level.offset for level in (first, second, third)] == [0, 64, 576]
    assert [level.dense for level in (first, second, third)] == [True, True, False]


def test_sizes_are_rounded_up_to_eight() -> None:
    (level,) = grid_levels(1, log2_entries=12, base=5, growth=2.0)
    assert (level.resolution, level.entries) == (5, 128)  # 125 nodes


def test_official_setting_has_the_known_size() -> None:
    levels = grid_levels(14, log2_entries=19, base=32, growth=1.3195)
    assert levels[0].resolution == 32
    assert levels[-1].entries == 2**19
    # 32 * 1.3195^13 - 1 = 1175.2 cells, rounded up, and one more node
    assert levels[-1].resolution == 1177


def test_dense_index_is_x_fastest() -> None:
    (level,) = grid_levels(1, log2_entries=9, base=4, growth=2.0)
    corners = corner_indices(level, torch.tensor([[1, 2, 0]]))
    first = 1 + 4 * 2
    assert corners.tolist() == [
        first + dx + 4 * dy + 16 * dz for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)
    ]


def test_hashed_index_by_hand() -> None:
    level = grid_levels(3, log2_entries=9, base=4, growth=2.0)[2]
    corners = corner_indices(level, torch.tensor([[3, 5, 7]]))
    expected = (3 ^ (5 * 2654435761) ^ (7 * 805459861)) % 512 + 576
    assert corners[0] == expected


def test_interpolation_reproduces_linear_functions_and_node_values() -> None:
    (level,) = grid_levels(1, log2_entries=9, base=4, growth=2.0)
    node = torch.arange(4.0, dtype=torch.float64)
    z, y, x = torch.meshgrid(node, node, node, indexing="ij")
    table = torch.stack([x, 2 * y - z], dim=-1).view(-1, 2)
    points = torch.rand(50, 3, dtype=torch.float64) * 0.8
    position = points * level.scale + 0.5
    out = interpolate(table, level, points)
    expected = torch.stack([position[:, 0], 2 * position[:, 1] - position[:, 2]], dim=-1)
    torch.testing.assert_close(out, expected)


def test_pairs_are_gathered_like_any_row() -> None:
    table = torch.randn(20, 2)
    rows = torch.randint(20, (33,))
    assert torch.equal(gather_rows(table, rows), table[rows])
    wide = torch.randn(20, 3)
    assert torch.equal(gather_rows(wide, rows), wide[rows])


@pytest.mark.parametrize("features", [2, 4])
def test_first_and_second_derivatives(features: int) -> None:
    grid = make(levels=2, features=features, log2_entries=4, base=2)  # 8 nodes, 16 hashed entries
    grid.params.data.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.rand(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x.requires_grad_()

    def features_of(points: Tensor, params: Tensor) -> Tensor:
        return torch.func.functional_call(grid, {"params": params}, (points, 2))

    assert torch.autograd.gradcheck(features_of, (x, grid.params), eps=1e-7, atol=1e-5)

    def slope(points: Tensor, params: Tensor) -> Tensor:
        out = features_of(points, params)
        return torch.autograd.grad((out**2).sum(), points, create_graph=True)[0]

    assert torch.autograd.gradcheck(slope, (x, grid.params), eps=1e-7, atol=1e-4)


def test_inactive_levels_are_zero() -> None:
    grid = make()
    x = torch.rand(5, 3, dtype=torch.float64)
    full = grid(x, 3)
    partial = grid(x, 1)
    assert torch.equal(partial[:, :2], full[:, :2])
    assert torch.equal(partial[:, 2:], torch.zeros(5, 4, dtype=torch.float64))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_corners_of_the_box_stay_inside_the_table(value: float) -> None:
    grid = make()
    out = grid(torch.full((1, 3), value, dtype=torch.float64), 3)
    assert torch.isfinite(out).all()
