"""Normals to ray distances, against surfaces whose distances are known."""

import dataclasses
import json

import numpy as np
import pytest
from fixtures.training import sphere_capture
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pmni.cli.main import main
from pmni.config.integration import (
    BilateralSettings,
    DownsamplingSettings,
    IntegrateSettings,
    SolverSettings,
)
from pmni.data.capture import Capture, save_capture
from pmni.errors import DivergenceError, InputError
from pmni.geometry.cameras import points_of_ray_distance, ray_distance_of_depth
from pmni.integration.bilateral import (
    Edges,
    bilateral_weights,
    integrate_depth,
    normal_differences,
    relative_change,
)
from pmni.integration.integrate import integrate
from pmni.integration.least_squares import DifferenceSolver
from pmni.integration.pixel_graph import pixel_graph
from pmni.integration.resample import downsample, upsample_depth

SKEWED = np.array([[300.0, 2.0, 31.5], [0, 280.0, 23.5], [0, 0, 1]])
STRAIGHT = np.array([[300.0, 0, 31.5], [0, 280.0, 23.5], [0, 0, 1]])


def rays(K, height=48, width=64):
    """The points of the plane z = 1 that the pixels see."""
    v, u = np.mgrid[:height, :width].astype(float)
    return np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T


def plane(normal, distance, K=SKEWED):
    """Exact depth of the plane n . x = -distance and its normal map."""
    normal = np.array(normal) / np.linalg.norm(normal)
    m = rays(K)
    return -distance / (m @ normal), np.broadcast_to(normal, m.shape)


def sphere(focal, size):
    """z-depth (NaN outside), normals and K of a sphere of radius 1, 10 away, off the axis."""
    K = np.array([[focal, 0, size * 0.45], [0, focal, size * 0.55], [0, 0, 1.0]])
    m = rays(K, size, size)
    centre = np.array([0.1, -0.2, 10.0])
    squared, along = (m**2).sum(-1), m @ centre
    root = along**2 - squared * (centre @ centre - 1.0)
    inside = root > 0
    depth = np.where(inside, (along - np.sqrt(np.maximum(root, 0))) / squared, np.nan)
    return depth, np.nan_to_num(depth[..., None] * m - centre), K


def solve(normals, mask, K=SKEWED, k=2.5):
    return integrate_depth(normals, mask, K, BilateralSettings(sharpness=k), SolverSettings())


def mean_error(depth, truth):
    """Mean absolute error of z-depth in the mask, after scaling by the median ratio."""
    depth = depth * np.nanmedian(truth / depth)
    return np.nanmean(np.abs(depth - truth))


# --------------------------------------------------------------------------------- pixel graph
def test_pixel_graph_by_hand():
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 0, 1]], bool)
    # pixel numbers:   0 1            2        3    4 5      6
    graph = pixel_graph(mask)
    edges = list(zip(graph.p.tolist(), graph.q.tolist(), graph.axis.tolist(), strict=True))
    assert edges == [(0, 1, 0), (4, 5, 0), (0, 2, 1), (2, 4, 1), (3, 6, 1)]
    assert graph.part.tolist() == [0, 0, 0, 1, 0, 0, 1]
    centred = graph.centred_by_part(np.array([1.0, 2, 3, 10, 4, 5, 20]))
    assert centred.tolist() == [-2, -1, 0, -5, 1, 2, 5]


# ------------------------------------------------------------------------------- least squares
def dense_solution(graph, weights, d):
    """The minimiser with the first pixel of each part at 0, by a dense solver."""
    A = np.zeros((len(graph.p), graph.pixels))
    A[np.arange(len(graph.p)), graph.q] = 1
    A[np.arange(len(graph.p)), graph.p] = -1
    root = np.sqrt(weights)
    x = np.linalg.lstsq(root[:, None] * A, root * d, rcond=None)[0]
    first = np.unique(graph.part, return_index=True)[1]
    return x - x[first][graph.part]


def test_a_sequence_of_systems_is_solved_like_by_a_dense_solver():
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


def test_a_solve_from_the_solution_stays_there():
    graph = pixel_graph(np.ones((9, 9), bool))
    x = np.random.default_rng(0).standard_normal(81)
    x -= x[0]
    again = DifferenceSolver(graph, SolverSettings()).solve(
        np.ones(len(graph.p)), x[graph.q] - x[graph.p], x
    )
    np.testing.assert_allclose(again, x, atol=1e-12)


def test_a_system_that_is_not_finite_is_refused():
    graph = pixel_graph(np.ones((3, 3), bool))
    d = np.full(len(graph.p), np.nan)
    with pytest.raises(DivergenceError, match="non-finite"):
        DifferenceSolver(graph, SolverSettings()).solve(np.ones(len(graph.p)), d, np.zeros(9))


# --------------------------------------------------------------------------------- what normals say
def test_differences_of_a_plane_are_those_of_its_log_depth():
    truth, normals = plane((0.5, -0.8, -1), 7.0)
    mask = np.random.default_rng(1).random(truth.shape) > 0.3
    graph = pixel_graph(mask)
    edges = normal_differences(normals[mask], mask, SKEWED, graph, BilateralSettings())
    log_depth = np.log(truth[mask])
    np.testing.assert_allclose(edges.d, log_depth[graph.q] - log_depth[graph.p], atol=1e-12)


def test_omega_turns_log_depth_into_pixels_along_the_normal():
    """In front of the camera, a fronto-parallel plane one pixel deeper is one pixel away."""
    K = np.array([[300.0, 0, 0], [0, 200.0, 0], [0, 0, 1]])
    mask = np.ones((2, 2), bool)
    graph = pixel_graph(mask)
    edges = normal_differences(np.tile([0.0, 0, -1], (4, 1)), mask, K, graph, BilateralSettings())
    np.testing.assert_allclose(edges.omega_p, np.where(graph.axis == 0, 300.0, 200.0))
    np.testing.assert_array_equal(edges.omega_p, edges.omega_q)


def test_weights_by_hand():
    """Three pixels in a row: a small step of x = 0.1, then a jump of x = 3."""
    graph = pixel_graph(np.ones((1, 3), bool))
    ones = np.ones(2)
    edges = Edges(d=np.zeros(2), omega_p=ones, omega_q=ones)
    Z = np.array([0.0, 0.1, 3.1])
    weight_p, weight_q = bilateral_weights(graph, edges, Z, BilateralSettings(sharpness=2.0))

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    calm, torn = 1 / (1 + 0.01 / 0.64) ** 2, 1 / (1 + 9 / 0.64) ** 2
    # The outer pixels have no second neighbour: its change counts as 0.
    np.testing.assert_allclose(
        weight_p, [2 * sigmoid(-0.02) * calm, 2 * sigmoid(2 * (0.01 - 9)) * torn], rtol=1e-9
    )
    np.testing.assert_allclose(
        weight_q, [2 * sigmoid(2 * (9 - 0.01)) * calm, 2 * sigmoid(-18.0) * torn], rtol=1e-9
    )


def test_relative_change_by_hand():
    assert relative_change(np.array([1.0, -1]), np.array([1.5, -0.5])) == pytest.approx(0.5)
    assert relative_change(np.zeros(3), np.zeros(3)) == 0.0
    assert relative_change(np.ones(3), np.zeros(3)) == np.inf


# ------------------------------------------------------------------------------------- surfaces
@pytest.mark.parametrize("normal", [(0, 0, -1), (0.4, -0.3, -1), (-0.8, 0.5, -1), (4, 0, -1)])
def test_planes_are_exact(normal):
    truth, normals = plane(normal, 10.0)
    result = solve(normals, np.ones(truth.shape, bool))
    np.testing.assert_allclose(result.depth * (truth / result.depth).mean(), truth, rtol=1e-9)
    assert result.iterations <= 2


def test_a_sphere_converges_with_the_resolution():
    """Twice the resolution, a quarter of the error (less what the outline's pixels add)."""
    errors = []
    for focal, size in ((200.0, 48), (400.0, 96), (800.0, 192)):
        truth, normals, K = sphere(focal, size)
        errors.append(mean_error(solve(normals, np.isfinite(truth), K).depth, truth))
    assert errors[0] < 0.01  # of a radius of 1, 20 pixels across
    assert errors[1] < errors[0] / 2.5
    assert errors[2] < errors[1] / 2.5


def test_what_lies_around_a_mask_does_not_matter():
    """The same pixels cut out of the image, with the principal point moved along."""
    truth, normals, K = sphere(200.0, 48)
    mask = np.isfinite(truth)
    mask[:3] = mask[:, :5] = False
    whole = solve(normals, mask, K)
    part = solve(normals[3:, 5:], mask[3:, 5:], K - [[0, 0, 5], [0, 0, 3], [0, 0, 0]])
    np.testing.assert_allclose(part.depth, whole.depth[3:, 5:], rtol=1e-9)


@given(scale=st.floats(0.01, 100))
@hypothesis_settings(max_examples=10, deadline=None)
def test_the_size_of_an_object_does_not_show(scale):
    """Normals do not tell the scale: the result is that of the object at any distance."""
    truth, normals = plane((0.3, 0.2, -1), scale)
    depth = solve(normals, np.ones(truth.shape, bool)).depth
    np.testing.assert_allclose(depth, truth / np.median(truth), rtol=1e-9)
    assert np.median(depth) == pytest.approx(1.0)


def torn_sheet(gap, K):
    """A sheet torn from the top down to a third of its height; one side bends forward there.

    The gap is in pixels at the top. The normals are exact: n is orthogonal to both derivatives of
    the surface exp(Z) m, which are along m dZ/du + dm/du and m dZ/dv + dm/dv.
    """
    height, width = 48, 64
    m, K_inverse = rays(K, height, width), np.linalg.inv(K)
    t = np.clip((0.3 - np.linspace(0, 1, height)) / 0.15, 0, 1)
    bent = (np.arange(width) >= 30) * (-gap / K[0, 0])
    Z = (t**2 * (3 - 2 * t))[:, None] * bent
    dZ_dv = (-6 * t * (1 - t) / 0.15 / (height - 1))[:, None] * bent
    n = np.cross(K_inverse[:, 1] + m * dZ_dv[..., None], K_inverse[:, 0])
    return np.exp(Z), n / np.linalg.norm(n, axis=-1, keepdims=True)


def ball_before_a_wall():
    """A sphere in front of a wall: at its outline the depth jumps, which no normal tells."""
    capture, truth = sphere_capture(views=1)
    ball = capture.masks[0]
    normals = np.where(ball[..., None], capture.normals[0], np.array([0, 0, -1], np.float32))
    along_axis = ray_distance_of_depth(np.ones(ball.shape), capture.intrinsics[0])
    return normals, ball, truth[0] / along_axis, capture.intrinsics[0]


@pytest.mark.parametrize("gap", [10.0, 20.0, 30.0])
def test_a_tear_is_kept_where_plain_least_squares_smears_it(gap):
    truth, normals = torn_sheet(gap, STRAIGHT)
    everywhere = np.ones(truth.shape, bool)
    kept = mean_error(solve(normals, everywhere, STRAIGHT).depth, truth)
    smeared = mean_error(solve(normals, everywhere, STRAIGHT, k=0.0).depth, truth)
    assert kept < 5e-3 * np.ptp(truth)
    assert kept < smeared / 20


def test_a_wall_behind_a_ball_stays_flat():
    normals, ball, truth, K = ball_before_a_wall()

    def errors(k):
        """Of the ball and of the wall, relative to the ball's radius of 0.5."""
        depth = solve(normals, np.ones_like(ball), K, k=k).depth
        front, back = np.where(ball, depth, np.nan), np.where(ball, np.nan, depth)
        return mean_error(front, truth) / 0.5, mean_error(back, 15.0) / 0.5

    kept, smeared = errors(2.5), errors(0.0)
    assert kept[0] < min(0.01, smeared[0])
    assert kept[1] < smeared[1] / 20


def test_without_bilateral_weights_one_solve_is_all():
    normals, ball, _, K = ball_before_a_wall()
    assert solve(normals, ball, K, k=0.0).iterations == 1


def test_normals_that_face_away_do_not_upset_their_surroundings():
    truth, normals, K = sphere(200.0, 48)
    mask = np.isfinite(truth)
    inner = np.argwhere(mask).mean(0).astype(int)
    wrong = normals.copy()
    wrong[inner[0], inner[1]] *= -1
    depth = solve(wrong, mask, K).depth
    assert np.array_equal(np.isfinite(depth), mask)
    assert mean_error(depth, truth) < mean_error(solve(normals, mask, K).depth, truth) + 1e-3


def test_parts_and_holes_and_lonely_pixels():
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


# ---------------------------------------------------------------------------------- perspective
def test_ray_distance_and_points_by_hand():
    K = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    distance = ray_distance_of_depth(np.array([[2.0, 2.0]]), K)
    np.testing.assert_allclose(distance, [[2.0, 2 * np.sqrt(2)]])
    np.testing.assert_allclose(points_of_ray_distance(distance, K), [[[0, 0, 2], [2, 0, 2]]])


# ---------------------------------------------------------------------------------------- stage
def test_views_that_cannot_be_integrated_are_named():
    capture, _ = sphere_capture(views=2)
    capture.normals[1][capture.masks[1]] = np.nan
    with pytest.raises(DivergenceError, match=r"sphere: view 01: .*non-finite"):
        integrate(capture, IntegrateSettings(), threads=2)
    capture.masks[0] = False
    with pytest.raises(InputError, match=r"sphere: view 00: the mask is empty"):
        integrate(capture, IntegrateSettings(), threads=2)


def test_several_at_a_time_change_nothing():
    capture, _ = sphere_capture(views=3)
    one, several = (integrate(capture, IntegrateSettings(), n) for n in (1, 3))
    np.testing.assert_array_equal(one.ray_distances, several.ray_distances)
    assert one.iterations == several.iterations


def test_a_view_that_still_moves_at_the_last_iteration_is_said(caplog):
    normals, ball, _, K = ball_before_a_wall()
    capture = Capture(normals[None], np.ones_like(ball)[None], K[None], ("00",), "wall")
    settings = IntegrateSettings(bilateral=BilateralSettings(max_iterations=2))
    assert integrate(capture, settings).iterations == {"00": 2}
    assert "wall: view 00: after 2 iterations the depth still changes" in caplog.text


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.5, 0.3, -0.8)])
def test_planes_are_exact_at_a_lower_resolution(normal):
    depth, normals = plane(normal, 5.0)
    mask = np.zeros(depth.shape, bool)
    mask[3:45, 5:60] = True
    capture = Capture(
        np.where(mask[..., None], normals, 0)[None], mask[None], SKEWED[None], ("00",), "plane"
    )
    settings = IntegrateSettings(downsampling=DownsamplingSettings(max_pixels=200))
    distances = integrate(capture, settings).ray_distances
    np.testing.assert_array_equal(np.isfinite(distances[0]), mask)
    truth = ray_distance_of_depth(np.where(mask, depth, np.nan), SKEWED)
    ratio = (distances[0] / truth)[mask]
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-6)


def test_captures_are_downsampled_by_whole_numbers_and_only_if_they_are_large():
    capture, _ = sphere_capture(views=1)
    pixels = capture.masks.sum()
    assert downsample(capture, int(pixels) + 1) is capture
    small = downsample(capture, int(pixels) - 1)
    assert small.masks.shape[1:] == tuple(side // 2 for side in capture.masks.shape[1:])


def test_a_depth_jump_stays_sharp_at_a_lower_resolution():
    capture, _ = sphere_capture(views=1)
    facing = np.zeros_like(capture.normals)
    facing[..., 2] = -1
    whole = dataclasses.replace(capture, normals=facing, masks=np.ones_like(capture.masks))
    small = downsample(whole, whole.masks.size // 4)
    depth = np.ones(small.masks.shape[1:])
    depth[:, depth.shape[1] // 2 :] = 2.0
    np.testing.assert_allclose(
        np.unique(upsample_depth(depth, small, whole, DownsamplingSettings()).round(9)), [1.0, 2.0]
    )


def test_what_is_far_from_all_downsampled_pixels_stays_unknown():
    capture, _ = sphere_capture(views=1)
    small = downsample(capture, int(capture.masks.sum()) // 4)
    mask = capture.masks.copy()
    mask[0, 0, 0] = True
    speck = dataclasses.replace(capture, masks=mask)
    depth = np.where(small.masks[0], 2.0, np.nan)
    found = upsample_depth(depth, small, speck, DownsamplingSettings())
    assert np.isnan(found[0, 0])
    assert np.isfinite(found[capture.masks[0]]).all()


def test_distances_of_the_dataset_are_taken_or_missed():
    capture, truth = sphere_capture(views=2)
    from_dataset = IntegrateSettings(method="dataset")
    with pytest.raises(InputError, match=r"sphere: the dataset has no ray distances"):
        integrate(capture, from_dataset)
    truth[0][capture.masks[0]] *= 3
    given = dataclasses.replace(capture, ray_distances=truth)
    medians = np.nanmedian(truth, axis=(1, 2), keepdims=True)
    np.testing.assert_array_equal(integrate(given, from_dataset).ray_distances, truth / medians)
    truth[1] = 0.0
    with pytest.raises(InputError, match=r"view 01: the dataset has no ray distance inside"):
        integrate(given, from_dataset)


@pytest.mark.parametrize("method", ["bilateral", "dataset"])
def test_stage_writes_distances_and_a_preview(tmp_path, method):
    capture, truth = sphere_capture(views=3)
    save_capture(
        tmp_path / "capture", dataclasses.replace(capture, ray_distances=truth * np.float32(7))
    )
    command = ["integrate", "--capture", str(tmp_path / "capture"), "--output"]
    settings = ["--settings", json.dumps({"method": method})]
    assert main([*command, str(tmp_path / "out"), *settings]) == 0
    with np.load(tmp_path / "out" / "ray_distance.npz") as archive:
        assert tuple(archive["views"]) == capture.views
        distance = archive["ray_distance"]
    assert distance.dtype == np.float32
    assert np.array_equal(np.isfinite(distance), capture.masks)
    np.testing.assert_allclose(np.nanmedian(distance, axis=(1, 2)), 1.0, rtol=1e-6)
    expected = truth / np.nanmedian(truth, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(distance, expected, rtol=4e-3 if method == "bilateral" else 1e-6)
    assert (tmp_path / "out" / "preview.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["stage"] == "integrate"
