"""The fit of the network to a grid."""

import torch
from fixtures.training import TINY, changed

from pmni.config.training import FieldSettings
from pmni.sdf.grid import grid_nodes
from pmni.sdf.network import NeuralSDF
from pmni.training.warm_start import fit_network


def test_network_is_fitted_to_a_grid() -> None:
    nodes = grid_nodes(33, torch.device("cpu"))
    box = (nodes.abs() - torch.tensor([0.5, 0.3, 0.2])).amax(-1)
    network = NeuralSDF(FieldSettings(levels=5, log2_entries=14, base_resolution=8), seed=0)
    error = fit_network(network, box, changed(TINY, warm_start={"steps": 80, "points": 2048}))
    assert error < 0.03
    on = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, -0.2]])
    assert network(on).abs().max() < 0.03
