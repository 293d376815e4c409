"""The solver of differences on a graph, against dense solutions."""

from typing import Any

import numpy as np
import pytest

from pmni.config.integration import (
    SolverSettings,
)
from pmni.errors import DivergenceError
from pmni.integration.least_squares import DifferenceSolver
from pmni.integration.pixel_graph import pixel_graph


def dense_solution(graph: Any, weights: Any, d: Any) -> Any:
    """The minimiser with the first pixel of each part at 0, by a dense solver."""
    A = np.zeros((len(graph.p), graph.pixels))
    A[np.arange(len(graph.p)), graph.q] = 1
    A[np.arange(len(graph.p)), graph.p] = -1
    root = np.sqrt(weights)
    x = np.linalg.lstsq(root[:, None] * A, root * d, rcond=None)[0]
    first = np.unique(graph.part, return_index=True)[1]
    return x - x[first][graph.part]


def test_a_sequence_of_systems_is_solved_like_by_a_dense_solver() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((12, 15)) > 0.4  # several parts, some of one pixel
    graph = pixel_graph(mask)
    assert graph.part.max() > 1
    system, x = DifferenceSolver(graph, SolverSettings()), np.zeros(graph.pixels)
    weights, d = rng.random(len(graph.p)) + 0.01, rng.standard_normal(len(graph.p))
    for _ in range(5):
        weights = weights * 10.0 ** rng.uniform(-1, 1, len(weights))
        for _ in range(8):  # each solve reduces the error it starts from
            x = system.solve(weights, d, x)
        np.testing.assert_allclose(x, dense_solution(graph, weights, d), atol=1e-8)


def test_a_solve_from_the_solution_stays_there() -> None:
    graph = pixel_graph(np.ones((9, 9), bool))
    x = np.random.default_rng(0).standard_normal(81)
    x -= x[0]
    again = DifferenceSolver(graph, SolverSettings()).solve(
        np.ones(len(graph.p)), x[graph.q] - x[graph.p], x
    )
    np.testing.assert_allclose(again, x, atol=1e-12)


def test_a_system_that_is_not_finite_is_refused() -> None:
    graph = pixel_graph(np.ones((3, 3), bool))
    d = np.full(len(graph.p), np.nan)
    with pytest.raises(DivergenceError, match="non-finite"):
        DifferenceSolver(graph, SolverSettings()).solve(np.ones(len(graph.p)), d, np.zeros(9))
