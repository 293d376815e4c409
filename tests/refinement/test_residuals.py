"""Residuals of refinement and their derivatives against exact geometry, in float64.

The grid's own differences would test interpolation: within a cell its gradient does not even turn.
Therefore the derivatives are compared with those of the exact residuals of an analytic surface, of
which the grid holds samples. What remains are differences over two cells: (h k)^2 / 6 relative at
the curvature k, 0.1 % here, and the grid's place of a ray's least value, off by up to a cell.
"""

import math
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from fixtures.analytic_sdfs import Analytic, sphere
from fixtures.refinement import observations_of
from fixtures.ring import (
    CENTRE,
    POINTS,
    RING,
    K,
    cameras,
    generator,
    moved,
    observations,
    on_fine_grid,
    truth,
)
from torch import Tensor
from torch.nn.functional import normalize

from pmni.data.capture import Capture
from pmni.geometry.cameras import look_at
from pmni.geometry.rotations import cross_matrix
from pmni.refinement.residuals import (
    OBJECT_SIZE,
    Residuals,
    contour_residuals,
    correct_normals,
    coverage_residuals,
    normal_residuals,
)
from pmni.refinement.state import (
    BIAS,
    LOG_FOCAL,
    NORMAL_TILT_BIAS,
    OFFSET,
    ROTATION,
    TRANSLATION,
    State,
)
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.sphere_tracing import box_interval, trace


def turned(vector: Tensor, by: Tensor) -> Tensor:
    """Vectors (N, 3) turned by rotation vectors (N, 3)."""
    matrix = torch.linalg.matrix_exp(cross_matrix(by))
    return (matrix @ vector[..., None])[..., 0]


def cast(
    view: int, pixels: Tensor, change: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Camera-frame and world directions and the origin of the rays of a changed camera."""
    pose = torch.from_numpy(cameras()[view])
    zero = torch.zeros(3, dtype=torch.float64)
    turn = torch.linalg.matrix_exp(cross_matrix(change.get("omega", zero)))
    R = turn @ pose[:3, :3]
    C = turn @ pose[:3, 3] + change.get("tau", zero)
    intrinsics = torch.from_numpy(K).clone()
    intrinsics[[0, 1], [0, 1]] *= math.exp(float(change.get("log_focal", zero[0])))
    homogeneous = torch.cat([pixels.double(), torch.ones(len(pixels), 1).double()], -1)
    local = normalize(homogeneous @ torch.linalg.inv(intrinsics).T, dim=-1)
    return local, local @ R.T, C, R


def exact_normal(view: int, pixels: Tensor, measured: Tensor, near: Tensor, change) -> Tensor:
    """R n' - n_f where the ray meets the ring; the crossing by Newton's method from `near`."""
    local, d, C, R = cast(view, pixels, change)
    t = near.double()
    for _ in range(8):
        f, gradient = RING.value_and_gradient(C + t[:, None] * d)
        t = t - f / (gradient * d).sum(-1)
    n_f = RING.value_and_gradient(C + t[:, None] * d)[1]
    # the measured normal, turned by the bias field and about the axis that tilts it away
    matrix = change.get("bias", torch.zeros(3, 3, dtype=torch.float64))
    offset = (pixels.double() - torch.from_numpy(K[:2, 2])) / K[0, 0]
    distance = np.linalg.norm(cameras()[view, :3, 3])
    place = torch.cat([torch.ones(len(pixels), 1).double(), offset * distance / OBJECT_SIZE], -1)
    n = turned(measured.double(), place @ matrix.T)
    axis = torch.linalg.cross(-local, n)  # sin(theta) long: turning about it raises theta
    return turned(n, change.get("tilt", torch.zeros(()).double()) * axis) @ R.T - n_f


def exact_contour(view: int, pixels: Tensor, near: Tensor, change) -> Tensor:
    """offset - the least distance to the ring along the ray, near a given place."""
    _, d, C, _ = cast(view, pixels, change)
    low, high = near.double() - 0.05, near.double() + 0.05
    for _ in range(60):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        falls = RING(C + a[:, None] * d) > RING(C + b[:, None] * d)
        low, high = torch.where(falls, a, low), torch.where(falls, high, b)
    least = RING(C + ((low + high) / 2)[:, None] * d)
    return (change.get("offset", torch.zeros(()).double()) - least)[:, None]


def derivative(residual, name: str, shape: tuple[int, ...]) -> Tensor:
    """Central differences of a residual (N, D) in one unknown: (N, D, number of its parts)."""
    columns, step = [], 1e-5
    for part in range(math.prod(shape)):
        delta = torch.zeros(math.prod(shape), dtype=torch.float64)
        delta[part] = step
        delta = delta.view(shape)
        columns.append((residual({name: delta}) - residual({name: -delta})) / (2 * step))
    return torch.stack(columns, dim=-1)


@cache
def normals_now():
    """Residuals at the truth, and what the exact ones need: view by view."""
    m, state = observations(), truth()
    index = m.sample_pixels(POINTS, generator())
    spread = (
        2 * torch.rand(index.numel(), generator=generator(1)) - 1
    ) * state.surface.grid.spacing
    found = normal_residuals(m, state, index, spread)
    pixels = m.pixels[index].float()
    d = (state.rotations.float()[:, None] @ m.directions(pixels, torch.zeros(()))[..., None])[
        ..., 0
    ]
    origin = state.centres.float()[:, None].expand_as(d)
    flat, start = d.reshape(-1, 3), origin.reshape(-1, 3)
    hits = trace(RING, start, flat, *box_interval(start, flat))
    normal = RING.value_and_gradient(start + hits.distance[:, None].nan_to_num() * flat)[1]
    # grazing rays are cut off by the code, and leave the surface by a small step
    steady = hits.mask & (found.valid > 0) & ((normal * flat).sum(-1) < -0.25)
    return found, index, hits.distance, steady


SHAPES = {
    "omega": (3,), "tau": (3,), "bias": (3, 3), "offset": (), "tilt": (), "log_focal": (),
}  # fmt: skip
VIEW_COLUMNS = {"omega": ROTATION, "tau": TRANSLATION, "bias": BIAS, "offset": OFFSET}
SHARED_COLUMNS = {"tilt": NORMAL_TILT_BIAS, "log_focal": LOG_FOCAL}


def column(found: Residuals, name: str) -> Tensor:
    """The code's derivative by an unknown."""
    if name in VIEW_COLUMNS:
        return found.view_jacobian[..., VIEW_COLUMNS[name]]
    return found.shared_jacobian[..., SHARED_COLUMNS[name], None]


def test_residuals_vanish_at_the_truth() -> None:
    found, _, _, steady = normals_now()
    assert steady.sum() > 300
    length = found.value.norm(dim=-1)[steady]
    # the gradient within a cell is that of its middle, to first order: half a diagonal times k
    h, k = truth().surface.grid.spacing, 1 / 0.24
    assert length.max() < 3**0.5 / 2 * h * k * 1.1
    assert length.median() < 0.3 * h * k


@pytest.mark.parametrize("name", ["omega", "tau", "bias", "tilt", "log_focal"])
def test_derivatives_of_normal_residuals(name: str) -> None:
    found, index, near, steady = normals_now()
    m = observations()
    for view in range(3):
        rows = slice(view * POINTS, (view + 1) * POINTS)
        pixels, normals, start = m.pixels[index[view]], m.normals[index[view]], near[rows]
        residual = partial(exact_normal, view, pixels, normals, start)
        expected = derivative(residual, name, SHAPES[name])[steady[rows]]
        difference = (column(found, name)[rows][steady[rows]] - expected).abs()
        assert difference.max() < 0.02 * max(1.0, float(expected.abs().max()))
        assert expected.abs().max() > 0.5


def test_derivatives_of_normal_residuals_by_the_surface() -> None:
    """f + step u, met by the same rays: the gradient changes, and so does the place."""
    _, index, near, steady = normals_now()
    found = normal_residuals(observations(), truth(), index, torch.zeros(index.numel()))

    def u(x: Tensor) -> Tensor:
        return torch.sin(1.5 * x[:, 0]) * torch.cos(x[:, 1] + 1) + 0.5 * x[:, 2]

    grid = truth().surface.grid
    got = -(found.weights @ u(grid.positions())[found.nodes][..., None])[..., 0]
    for view in range(3):
        rows = slice(view * POINTS, (view + 1) * POINTS)
        _, d, C, _ = cast(view, observations().pixels[index[view]], {})
        ends = []
        for step in (1e-5, -1e-5):
            changed = Analytic(lambda x, step=step: RING(x) + step * u(x))
            t = near[rows].double()
            for _ in range(8):
                f, gradient = changed.value_and_gradient(C + t[:, None] * d)
                t = t - f / (gradient * d).sum(-1)
            ends.append(-changed.value_and_gradient(C + t[:, None] * d)[1])
        expected = ((ends[0] - ends[1]) / 2e-5)[steady[rows]]
        difference = (got[rows][steady[rows]] - expected).abs()
        # within a cell the gradient of u is that of its middle
        assert difference.max() < 0.03 * expected.abs().max()
        assert expected.abs().max() > 1.5


def test_normal_residuals_compare_with_the_gradient_of_the_cell() -> None:
    found, index, _, _ = normals_now()
    surface = truth().surface
    ok = found.valid > 0
    corners = surface.values[found.nodes].view(-1, 2, 2, 2) / surface.grid.spacing
    # on each axis the gradient is between those of the cell's four edges
    measured = truth().rotations.float()[:, None] @ observations().normals[index][..., None]
    gradient = (measured.view(-1, 3) - found.value)[ok]
    for axis in range(3):
        edges = corners[ok].diff(dim=axis + 1).flatten(1)
        assert (gradient[:, axis] <= edges.amax(-1) + 1e-4).all()
        assert (gradient[:, axis] >= edges.amin(-1) - 1e-4).all()


@pytest.mark.parametrize("kind", ["normals", "contours"])
def test_a_step_finds_a_wrong_focal_length_where_the_surface_is_known(kind: str) -> None:
    """Intrinsics 3 % too long, all else right."""
    m = observations()
    longer = m.intrinsics.clone()
    longer[:, [0, 1], [0, 1]] *= 1.03
    m = replace(m, intrinsics=longer)
    if kind == "normals":
        index = m.sample_pixels(POINTS, generator())
        found = normal_residuals(m, truth(), index, torch.zeros(index.numel()))
    else:
        found = contour_residuals(m, truth(), m.sample_contour(POINTS, generator()))
    slope, value = found.shared_jacobian[..., LOG_FOCAL], found.value
    ok = (found.valid > 0) & (value.norm(dim=-1) < 0.5)
    step = -float((slope * value)[ok].sum() / (slope * slope)[ok].sum())
    assert step == pytest.approx(-math.log(1.03), rel=0.15)


def test_offsets_do_not_touch_normals_nor_biases_contours() -> None:
    assert (normals_now()[0].view_jacobian[..., OFFSET] == 0).all()
    found = contours_now()[0]
    assert (found.view_jacobian[..., BIAS] == 0).all()
    assert (found.shared_jacobian[..., NORMAL_TILT_BIAS] == 0).all()


def test_pixels_that_see_nothing_do_not_count() -> None:
    """The surface is far too small: most rays pass it."""
    state = replace(truth(), surface=on_fine_grid(moved(sphere(0.1), CENTRE), 32))
    m = observations()
    index = m.sample_pixels(POINTS, generator())
    found = normal_residuals(m, state, index, torch.zeros(index.numel()))
    assert found.valid.mean() < 0.1
    assert found.value.isfinite().all()
    assert found.view_jacobian.isfinite().all()


def corrected(bias: Tensor, tilt: float) -> tuple[Tensor, Tensor, Tensor]:
    """Corrected and measured normals and the rays of view 0."""
    m = observations()
    index = m.sample_pixels(POINTS, generator())
    state = replace(truth(), bias=bias.expand(3, 3, 3), normal_tilt_bias=torch.tensor(tilt))
    pixels = m.pixels[index].float()
    local = m.directions(pixels, torch.zeros(()))
    result = correct_normals(m.intrinsics, state, m.normals[index], pixels, local)
    return result.normals, m.normals[index], local


def test_a_positive_tilt_bias_turns_normals_away_from_the_camera() -> None:
    after, before, local = corrected(torch.zeros(3, 3), 0.05)
    angle_before = (-(before * local).sum(-1)).clamp(-1, 1).acos()
    angle_after = (-(after * local).sum(-1)).clamp(-1, 1).acos()
    expected = angle_before + 0.05 * angle_before.sin()
    seen = angle_before > 0.05
    torch.testing.assert_close(angle_after[seen], expected[seen], atol=2e-4, rtol=0)
    # in the plane of ray and normal
    across = (torch.linalg.cross(before, local) * after).sum(-1)
    assert across.abs().max() < 1e-6


def test_a_constant_bias_is_a_rotation() -> None:
    bias = torch.zeros(3, 3)
    bias[:, 0] = torch.tensor([0.01, -0.02, 0.015])
    after, before, _ = corrected(bias, 0.0)
    expected = turned(before.view(-1, 3), bias[:, 0].expand(before[..., 0].numel(), 3))
    torch.testing.assert_close(after.view(-1, 3), expected, atol=5e-4, rtol=0)
    torch.testing.assert_close(after.norm(dim=-1), torch.ones_like(after[..., 0]))


@cache
def contours_now():
    m, state = observations(), truth()
    index = m.sample_contour(POINTS, generator())
    found = contour_residuals(m, state, index)
    local = m.directions(m.contour[index], torch.zeros(()))
    d = (state.rotations.float()[:, None] @ local[..., None])[..., 0].view(-1, 3)
    origin = state.centres.float()[:, None].expand(-1, POINTS, -1).reshape(-1, 3)
    near, far = box_interval(origin, d)
    # the least distance along the exact ring; where two places compete it is not differentiable
    t = near[:, None] + torch.linspace(0, 1, 1201) * (far - near)[:, None]
    f = RING((origin[:, None] + t[..., None] * d[:, None]).reshape(-1, 3)).view(t.shape)
    best, at = f.min(-1)
    place = t.gather(1, at[:, None])[:, 0]
    elsewhere = torch.where((t - place[:, None]).abs() > 0.15, f, torch.inf).amin(-1)
    steady = (found.valid > 0) & (elsewhere > best + 0.03)
    return found, index, place, steady


@pytest.mark.parametrize("name", ["omega", "tau", "offset", "log_focal"])
def test_contour_residuals_and_their_derivatives(name: str) -> None:
    found, index, near, steady = contours_now()
    assert steady.sum() > 250
    h = truth().surface.grid.spacing
    for view in range(3):
        rows = slice(view * POINTS, (view + 1) * POINTS)
        ok = steady[rows]
        residual = partial(exact_contour, view, observations().contour[index[view]], near[rows])
        # trilinear values: h^2 / 8 times the sum of the curvatures
        assert (found.value[rows] - residual({}))[ok].abs().max() < h**2 / 8 * 2 / 0.24
        expected = derivative(residual, name, SHAPES[name])[ok]
        difference = (column(found, name)[rows][ok] - expected).abs()
        assert difference.max() < h  # the place is known to a cell
        assert expected.abs().max() > 0.3


def test_contour_residuals_change_by_the_surface_where_the_ray_is_nearest() -> None:
    """The envelope theorem: -A u is all, though the nearest place moves too."""
    found, index, _, steady = contours_now()
    step = 2e-3

    def u(x: Tensor) -> Tensor:
        return torch.sin(3 * x[:, 0]) * torch.cos(2 * x[:, 1] + 1) + 0.5 * x[:, 2]

    grid = truth().surface.grid
    values = truth().surface.values + step * u(grid.positions())
    base = on_fine_grid(Analytic(lambda x: RING(x) + step * u(x)), 64).background
    changed = replace(truth(), surface=NarrowBandSDF(grid, values, base))
    after = contour_residuals(observations(), changed, index)
    slope = (after.value - found.value)[:, 0] / step
    at_nodes = u(grid.positions())
    expected = -(found.weights[:, 0] * at_nodes[found.nodes]).sum(-1)
    # what is beyond the theorem is quadratic: step * |slope of u|^2 / (2 k), and the grid's place
    assert (slope - expected)[steady].abs().max() < 0.1
    assert (slope - expected)[steady].abs().median() < 0.01
    assert expected[steady].std() > 0.3


def test_pixels_of_the_mask_that_miss_the_surface() -> None:
    """A ball that is smaller than its masks: rays beside it, and only they, are off by what they
    miss it by."""
    m, radius = observations(), 0.45
    state = State.start(on_fine_grid(sphere(radius)), truth().c2w())
    index = m.sample_pixels(POINTS, generator())
    found = coverage_residuals(m, state, index)
    local = m.directions(m.pixels[index].float(), torch.zeros(()))
    d = (state.rotations.float()[:, None] @ local[..., None])[..., 0].view(-1, 3)
    origin = state.centres.float()[:, None].expand(-1, POINTS, -1).reshape(-1, 3)
    missed = torch.linalg.vector_norm(torch.linalg.cross(origin, d), dim=-1) - radius
    h = state.surface.grid.spacing
    clear = (missed.abs() > h / 4) & (missed < 4 * h)  # nodes are near the surface only
    assert torch.equal(found.valid[clear] > 0, missed[clear] > 0)
    assert 10 < found.valid[clear].sum() < clear.sum() - 10
    off = found.value[:, 0] + missed
    assert off[found.valid > 0].abs().max() < h**2 / (4 * radius)
    assert (found.view_jacobian[:, 0, OFFSET] == 0).all()


@pytest.mark.parametrize("miss", [-0.03, 0.0, 0.02, 0.05])
@pytest.mark.parametrize("offset", [0.0, 0.01])
def test_a_ray_beside_a_sphere_by_hand(miss: float, offset: float) -> None:
    """A camera 5 away on the z axis: the ray that passes at radius + miss is off by miss."""
    radius, focal = 0.6, 500.0
    angle = math.asin((radius + miss) / 5)
    pose = look_at(np.array([0, 0, 5.0]), np.zeros(3), up=(0.0, 1.0, 0.0))
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    normals = np.zeros((3, 60, 60, 3), np.float32)
    normals[..., 2] = -1
    intrinsics = np.array([[focal, 0, 30], [0, focal, 30], [0, 0, 1]])
    capture = Capture(normals, np.stack([mask] * 3), intrinsics, ("a", "b", "c"), "ball")
    m = observations_of(capture)
    spot = 30 + focal * math.tan(angle) * np.array([[1, 0], [0, -1], [0.6, 0.8]])
    m = replace(
        m, contour=torch.from_numpy(spot).float(), first_contour_point=torch.tensor([0, 1, 2, 3])
    )
    state = State.start(on_fine_grid(sphere(radius)), torch.from_numpy(np.stack([pose] * 3)))
    state = replace(state, offsets=torch.full((3,), offset))
    found = contour_residuals(m, state, torch.tensor([[0], [1], [2]]))
    h = state.surface.grid.spacing
    assert (found.value + miss - offset).abs().max() < h**2 / (4 * radius)
    assert found.valid.all()
    # moving the camera sideways by tau moves the ray: it misses by tau more; towards it, nothing
    right = torch.from_numpy(pose[:3, 0]).float()
    assert float(found.view_jacobian[0, 0, TRANSLATION] @ right) == pytest.approx(-1, abs=0.01)
    forward = torch.from_numpy(pose[:3, 2]).float()
    assert float(found.view_jacobian[0, 0, TRANSLATION] @ forward) == pytest.approx(
        math.sin(angle), abs=0.01
    )
