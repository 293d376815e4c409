"""Surfaces on a grid: what a function, a network and a corrected grid become."""

import pytest
import torch
from fixtures.analytic_sdfs import sphere
from torch.testing import assert_close

from pmni.config.training import FieldSettings
from pmni.sdf.baking import bake
from pmni.sdf.narrow_band import resample
from pmni.sdf.network import NeuralSDF
from pmni.sdf.residual import ResidualSDF

CPU = torch.device("cpu")


@pytest.mark.parametrize(("spacing", "cells"), [(1.0, 256), (2 / 300, 304), (1e-3, 512)])
def test_a_function_gets_cells_of_about_the_spacing(spacing: float, cells: int) -> None:
    assert bake(sphere(0.3), spacing, CPU, 256, 512).grid.cells == cells


def test_a_function_keeps_its_values_at_the_nodes() -> None:
    surface = sphere(0.3)
    band = bake(surface, 2 / 256, CPU, 256, 512)
    assert_close(band.values, surface(band.grid.positions()), atol=1e-6, rtol=0)


def test_a_grid_stays_what_it_is() -> None:
    band = resample(sphere(0.5), 32, CPU, sweeps=0)
    assert bake(band, 1e-3, CPU, 256, 512) is band


@pytest.mark.parametrize("cells", [32, 128])
def test_a_corrected_grid_is_the_sum_at_its_nodes(cells: int) -> None:
    band = resample(sphere(0.5), cells, CPU, sweeps=0)
    band.observed = band.values > 0
    network = NeuralSDF(FieldSettings(levels=2), seed=0)
    corrected = ResidualSDF(band, network)
    found = bake(corrected, 1e-3, CPU, 256, 512)
    nodes = band.grid.positions()
    with torch.no_grad():
        assert_close(found.values, band.values + network(nodes))
        inner = nodes[band.grid.cell_corners(nodes)[2] & (nodes.abs() <= 1).all(-1)]
        assert_close(found(inner), corrected(inner), atol=1e-5, rtol=0)
        far = torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 1.0]])
        assert_close(found(far), corrected(far), atol=1e-5, rtol=0)
    assert found.grid is band.grid
    assert found.observed is band.observed
