"""The graph of a mask's pixels."""

import numpy as np

from pmni.integration.pixel_graph import pixel_graph


def test_pixel_graph_by_hand() -> None:
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 0, 1]], bool)
    # pixel numbers:   0 1            2        3    4 5      6
    graph = pixel_graph(mask)
    edges = list(zip(graph.p.tolist(), graph.q.tolist(), graph.axis.tolist(), strict=True))
    assert edges == [(0, 1, 0), (4, 5, 0), (0, 2, 1), (2, 4, 1), (3, 6, 1)]
    assert graph.part.tolist() == [0, 0, 0, 1, 0, 0, 1]
    centred = graph.centred_by_part(np.array([1.0, 2, 3, 10, 4, 5, 20]))
    assert centred.tolist() == [-2, -1, 0, -5, 1, 2, 5]
