"""Surfaces on a grid are meshed on their own nodes, which need no interpolation."""

import numpy as np
import pytest
import torch
from fixtures.analytic_sdfs import sphere, torus
from scipy.spatial import KDTree

from pmni.config.meshing import MeshSettings
from pmni.config.training import FieldSettings
from pmni.meshing import node_cache
from pmni.meshing.extract import extract_zero_level
from pmni.meshing.grid_surfaces import evaluate_at_nodes, is_observed, narrow_band
from pmni.sdf.narrow_band import NarrowBandSDF, resample
from pmni.sdf.network import NeuralSDF
from pmni.sdf.residual import ResidualSDF

CPU = torch.device("cpu")
TORUS = torus(0.55, 0.2)


@pytest.fixture(scope="module", params=[48, 128])
def band(request) -> NarrowBandSDF:
    return resample(TORUS, request.param, CPU, sweeps=4)


def corrected(band: NarrowBandSDF) -> ResidualSDF:
    field = FieldSettings(encoding="none", width=16, backend="torch")
    network = NeuralSDF(field, seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.2)
    return ResidualSDF(band, network)


def test_nodes_have_the_values_that_interpolation_gives(band):
    points = band.grid.positions()
    points = points[(points <= 1).all(1)]
    near = band(points).abs() < 1.5 * band.grid.spacing
    assert near.sum() > 1000
    for surface in (band, corrected(band)):
        with torch.no_grad():
            off = evaluate_at_nodes(surface)(points) - surface(points)
        assert off[near].abs().max() < 1e-5


def test_nodes_that_are_off_have_the_values_of_the_base(band):
    points = torch.tensor([[0.0, 0, 0], [1, 1, 1], [-1, -1, -1]])
    torch.testing.assert_close(evaluate_at_nodes(band)(points), band(points))


def test_the_mesh_is_that_of_the_interpolated_function(band):
    ours, theirs = (
        extract_zero_level(evaluate, band.grid.cells, MeshSettings()).mesh
        for evaluate in (evaluate_at_nodes(band), band)
    )
    assert len(ours.faces) == len(theirs.faces)
    assert KDTree(ours.vertices).query(theirs.vertices)[0].max() < 1e-4 * band.grid.spacing


def test_a_surface_without_a_grid_stays_as_it_is():
    surface = sphere(0.5)
    assert narrow_band(surface) is None
    assert evaluate_at_nodes(surface) is surface


def test_what_was_seen_does_not_depend_on_how_much_is_asked_at_once(band, monkeypatch):
    rng = np.random.default_rng(0)
    seen = torch.from_numpy(rng.random(len(band.values)) < 0.97)
    partly = NarrowBandSDF(band.grid, band.values, band.background, seen)
    points = torch.from_numpy(rng.uniform(-0.8, 0.8, (3000, 3))).float()
    known = partly.is_observed(points)
    assert known.any()
    assert not known.all()
    monkeypatch.setitem(node_cache.POINTS, "cpu", 700)
    torch.testing.assert_close(is_observed(partly, points), known)
