"""Depth from normals, against surfaces whose depth is known."""

from typing import Any

import numpy as np
import pytest
from fixtures.depth_surfaces import (
    SKEWED,
    STRAIGHT,
    ball_before_a_wall,
    mean_error,
    plane,
    sphere,
    torn_sheet,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pmni.config.integration import (
    BilateralSettings,
    SolverSettings,
)
from pmni.integration.bilateral import (
    Edges,
    bilateral_weights,
    integrate_depth,
    normal_differences,
    relative_change,
)
from pmni.integration.pixel_graph import pixel_graph


def solve(normals: Any, mask: Any, K: Any = SKEWED, k: Any = 2.5) -> Any:
    return integrate_depth(normals, mask, K, BilateralSettings(sharpness=k), SolverSettings())


def test_differences_of_a_plane_are_those_of_its_log_depth() -> None:
    truth, normals = plane((0.5, -0.8, -1), 7.0)
    mask = np.random.default_rng(1).random(truth.shape) > 0.3
    graph = pixel_graph(mask)
    edges = normal_differences(normals[mask], mask, SKEWED, graph, BilateralSettings())
    log_depth = np.log(truth[mask])
    np.testing.assert_allclose(edges.d, log_depth[graph.q] - log_depth[graph.p], atol=1e-12)


def test_omega_turns_log_depth_into_pixels_along_the_normal() -> None:
    """In front of the camera, a fronto-parallel plane one pixel deeper is one pixel away."""
    K = np.array([[300.0, 0, 0], [0, 200.0, 0], [0, 0, 1]])
    mask = np.ones((2, 2), bool)
    graph = pixel_graph(mask)
    edges = normal_differences(np.tile([0.0, 0, -1], (4, 1)), mask, K, graph, BilateralSettings())
    np.testing.assert_allclose(edges.omega_p, np.where(graph.axis == 0, 300.0, 200.0))
    np.testing.assert_array_equal(edges.omega_p, edges.omega_q)


def test_weights_by_hand() -> None:
    """Three pixels in a row: a small step of x = 0.1, then a jump of x = 3."""
    graph = pixel_graph(np.ones((1, 3), bool))
    ones = np.ones(2)
    edges = Edges(d=np.zeros(2), omega_p=ones, omega_q=ones)
    Z = np.array([0.0, 0.1, 3.1])
    weight_p, weight_q = bilateral_weights(graph, edges, Z, BilateralSettings(sharpness=2.0))

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    calm, torn = 1 / (1 + 0.01 / 0.64) ** 2, 1 / (1 + 9 / 0.64) ** 2
    # The outer pixels have no second neighbour: its change counts as 0.
    np.testing.assert_allclose(
        weight_p, [2 * sigmoid(-0.02) * calm, 2 * sigmoid(2 * (0.01 - 9)) * torn], rtol=1e-9
    )
    np.testing.assert_allclose(
        weight_q, [2 * sigmoid(2 * (9 - 0.01)) * calm, 2 * sigmoid(-18.0) * torn], rtol=1e-9
    )


def test_relative_change_by_hand() -> None:
    assert relative_change(np.array([1.0, -1]), np.array([1.5, -0.5])) == pytest.approx(0.5)
    assert relative_change(np.zeros(3), np.zeros(3)) == 0.0
    assert relative_change(np.ones(3), np.zeros(3)) == np.inf


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.4, -0.3, -1), (-0.8, 0.5, -1), (4, 0, -1)])
def test_planes_are_exact(normal: Any) -> None:
    truth, normals = plane(normal, 10.0)
    result = solve(normals, np.ones(truth.shape, bool))
    np.testing.assert_allclose(result.depth * (truth / result.depth).mean(), truth, rtol=1e-9)
    assert result.iterations <= 2


def test_a_sphere_converges_with_the_resolution() -> None:
    """Twice the resolution, a quarter of the error (less what the outline's pixels add)."""
    errors = []
    for focal, size in ((200.0, 48), (400.0, 96), (800.0, 192)):
        truth, normals, K = sphere(focal, size)
        errors.append(mean_error(solve(normals, np.isfinite(truth), K).depth, truth))
    assert errors[0] < 0.01  # of a radius of 1, 20 pixels across
    assert errors[1] < errors[0] / 2.5
    assert errors[2] < errors[1] / 2.5


def test_what_lies_around_a_mask_does_not_matter() -> None:
    """The same pixels cut out of the image, with the principal point moved along."""
    truth, normals, K = sphere(200.0, 48)
    mask = np.isfinite(truth)
    mask[:3] = mask[:, :5] = False
    whole = solve(normals, mask, K)
    part = solve(normals[3:, 5:], mask[3:, 5:], K - [[0, 0, 5], [0, 0, 3], [0, 0, 0]])
    np.testing.assert_allclose(part.depth, whole.depth[3:, 5:], rtol=1e-9)


@given(scale=st.floats(0.01, 100))
@hypothesis_settings(max_examples=10, deadline=None)
def test_the_size_of_an_object_does_not_show(scale: Any) -> None:
    """Normals do not tell the scale: the result is that of the object at any distance."""
    truth, normals = plane((0.3, 0.2, -1), scale)
    depth = solve(normals, np.ones(truth.shape, bool)).depth
    np.testing.assert_allclose(depth, truth / np.median(truth), rtol=1e-9)
    assert np.median(depth) == pytest.approx(1.0)


@pytest.mark.parametrize("gap", [10.0, 20.0, 30.0])
def test_a_tear_is_kept_where_plain_least_squares_smears_it(gap: Any) -> None:
    truth, normals = torn_sheet(gap, STRAIGHT)
    everywhere = np.ones(truth.shape, bool)
    kept = mean_error(solve(normals, everywhere, STRAIGHT).depth, truth)
    smeared = mean_error(solve(normals, everywhere, STRAIGHT, k=0.0).depth, truth)
    assert kept < 5e-3 * np.ptp(truth)
    assert kept < smeared / 20


def test_a_wall_behind_a_ball_stays_flat() -> None:
    normals, ball, truth, K = ball_before_a_wall()

    def errors(k: Any) -> Any:
        """Of the ball and of the wall, relative to the ball's radius of 0.5."""
        depth = solve(normals, np.ones_like(ball), K, k=k).depth
        front, back = np.where(ball, depth, np.nan), np.where(ball, np.nan, depth)
        return mean_error(front, truth) / 0.5, mean_error(back, 15.0) / 0.5

    kept, smeared = errors(2.5), errors(0.0)
    assert kept[0] < min(0.01, smeared[0])
    assert kept[1] < smeared[1] / 20


def test_without_bilateral_weights_one_solve_is_all() -> None:
    normals, ball, _, K = ball_before_a_wall()
    assert solve(normals, ball, K, k=0.0).iterations == 1


def test_normals_that_face_away_do_not_upset_their_surroundings() -> None:
    truth, normals, K = sphere(200.0, 48)
    mask = np.isfinite(truth)
    inner = np.argwhere(mask).mean(0).astype(int)
    wrong = normals.copy()
    wrong[inner[0], inner[1]] *= -1
    depth = solve(wrong, mask, K).depth
    assert np.array_equal(np.isfinite(depth), mask)
    assert mean_error(depth, truth) < mean_error(solve(normals, mask, K).depth, truth) + 1e-3


def test_parts_and_holes_and_lonely_pixels() -> None:
    truth, normals = plane((0.4, -0.3, -1), 10.0)
    mask = np.zeros(truth.shape, bool)
    mask[5:20, 5:25] = True
    mask[10:12, 10:14] = False
    mask[30:40, 40:60] = True
    mask[45, 3] = True
    depth = solve(normals, mask).depth
    assert np.array_equal(np.isfinite(depth), mask)
    for part in (np.s_[5:20, 5:25], np.s_[30:40, 40:60]):
        inside = np.where(mask[part], depth[part], np.nan)
        expected = np.where(mask[part], truth[part], np.nan)
        np.testing.assert_allclose(inside, expected / np.nanmedian(expected), rtol=1e-6)
    assert depth[45, 3] == pytest.approx(1.0)
