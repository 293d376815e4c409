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
from fixtures.analytic_sdfs import Analytic, sphere, torus, union
from torch import Tensor
from torch.nn.functional import normalize

from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.geometry.cameras import look_at
from pmni.refinement.observations import contour_points, load_observations
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
    Increment,
    State,
    cross_matrix,
)
from pmni.sdf.block_grid import BLOCK, BlockGrid
from pmni.sdf.closest_approach import closest_approach
from pmni.sdf.grid import GridSDF, grid_nodes
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.sphere_tracing import box_interval, trace

CPU = torch.device("cpu")
CELLS = 128
HEIGHT, WIDTH = 60, 72
K = np.array([[500.0, 0, 37.2], [0, 480.0, 28.1], [0, 0, 1]])
CENTRE = (0.08, -0.05, 0.06)
POINTS = 150
"""Of each kind that each view is asked for."""


def moved(sdf: Analytic, centre: tuple[float, float, float]) -> Analytic:
    return Analytic(lambda x: sdf(x - x.new_tensor(centre)))


RING = moved(torus(0.5, 0.24), CENTRE)
"""Curvatures from -1 / 0.26 to 1 / 0.24, off the origin about which cameras turn."""


@cache
def on_fine_grid(sdf: Analytic, cells: int = CELLS) -> NarrowBandSDF:
    """Exact values at the nodes; no redistancing."""
    side, coarse = cells // BLOCK + 1, min(cells, 64) + 1
    middle = (torch.arange(side) * BLOCK + 1.5) * (2 / cells) - 1
    middles = torch.stack(torch.meshgrid(middle, middle, middle, indexing="ij"), -1)
    near = sdf(middles.view(-1, 3)).abs().view(side, side, side) < 9 * 2 / cells
    grid = BlockGrid(cells, near | (cells <= 64))
    base = GridSDF(sdf(grid_nodes(coarse, CPU).view(-1, 3)).view(coarse, coarse, coarse))
    return NarrowBandSDF(grid, sdf(grid.positions()), base)


def cameras() -> np.ndarray:
    positions = 6.0 * np.array([[0.7, 0.4, 0.6], [-0.5, 0.6, 0.62], [0.1, -0.9, 0.42]])
    target, rolls = np.array([0.03, 0.02, -0.04]), (0.3, -1.0, 2.0)
    return np.stack([look_at(p, target, roll=r) for p, r in zip(positions, rolls, strict=True)])


@cache
def ring_capture() -> Capture:
    """Exact normals and masks."""
    v, u = np.mgrid[:HEIGHT, :WIDTH].reshape(2, -1).astype(float)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T
    rays = torch.from_numpy(rays / np.linalg.norm(rays, axis=-1, keepdims=True))
    masks, normals = [], []
    for pose in torch.from_numpy(cameras()):
        direction = rays @ pose[:3, :3].T
        origin = pose[:3, 3].expand_as(direction).contiguous()
        hits = trace(RING, origin, direction, *box_interval(origin, direction))
        x = origin + hits.distance[:, None].nan_to_num() * direction
        normal = RING.value_and_gradient(x)[1] @ pose[:3, :3] * hits.mask[:, None]
        masks.append(hits.mask.view(HEIGHT, WIDTH).numpy())
        normals.append(normal.view(HEIGHT, WIDTH, 3).numpy().astype(np.float32))
    return Capture(np.stack(normals), np.stack(masks), np.stack([K] * 3), ("a", "b", "c"), "ring",
                   reference_c2w=cameras())  # fmt: skip


@cache
def observations():
    return load_observations(ring_capture(), (), CPU)


@cache
def truth() -> State:
    return State.start(on_fine_grid(RING), torch.from_numpy(cameras()))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --------------------------------------------------------------- the exact residuals, in float64
def turned(vector: Tensor, by: Tensor) -> Tensor:
    """Vectors (N, 3) turned by rotation vectors (N, 3)."""
    matrix = torch.linalg.matrix_exp(cross_matrix(by))
    return (matrix @ vector[..., None])[..., 0]


def cast(view: int, pixels: Tensor, change: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
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
    return turned(n, change.get("flattening", torch.zeros(()).double()) * axis) @ R.T - n_f


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
    "omega": (3,), "tau": (3,), "bias": (3, 3), "offset": (), "flattening": (), "log_focal": (),
}  # fmt: skip
VIEW_COLUMNS = {"omega": ROTATION, "tau": TRANSLATION, "bias": BIAS, "offset": OFFSET}
SHARED_COLUMNS = {"flattening": NORMAL_TILT_BIAS, "log_focal": LOG_FOCAL}


def column(found: Residuals, name: str) -> Tensor:
    """The code's derivative by an unknown."""
    if name in VIEW_COLUMNS:
        return found.view_jacobian[..., VIEW_COLUMNS[name]]
    return found.shared_jacobian[..., SHARED_COLUMNS[name], None]


# ------------------------------------------------------------------------- residuals of normals
def test_residuals_vanish_at_the_truth():
    found, _, _, steady = normals_now()
    assert steady.sum() > 300
    length = found.value.norm(dim=-1)[steady]
    # the gradient within a cell is that of its middle, to first order: half a diagonal times k
    h, k = truth().surface.grid.spacing, 1 / 0.24
    assert length.max() < 3**0.5 / 2 * h * k * 1.1
    assert length.median() < 0.3 * h * k


@pytest.mark.parametrize("name", ["omega", "tau", "bias", "flattening", "log_focal"])
def test_derivatives_of_normal_residuals(name):
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


def test_derivatives_of_normal_residuals_by_the_surface():
    """f + step u, met by the same rays: the gradient changes, and so does the place."""
    _, index, near, steady = normals_now()
    found = normal_residuals(observations(), truth(), index, torch.zeros(index.numel()))

    def u(x: Tensor) -> Tensor:
        return torch.sin(1.5 * x[:, 0]) * torch.cos(x[:, 1] + 1) + 0.5 * x[:, 2]

    grid = truth().surface.grid
    got = -(found.weights @ u(grid.positions())[found.rows][..., None])[..., 0]
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


def test_normal_residuals_compare_with_the_gradient_of_the_cell():
    found, index, _, _ = normals_now()
    surface = truth().surface
    ok = found.valid > 0
    corners = surface.values[found.rows].view(-1, 2, 2, 2) / surface.grid.spacing
    # on each axis the gradient is between those of the cell's four edges
    measured = truth().rotations.float()[:, None] @ observations().normals[index][..., None]
    gradient = (measured.view(-1, 3) - found.value)[ok]
    for axis in range(3):
        edges = corners[ok].diff(dim=axis + 1).flatten(1)
        assert (gradient[:, axis] <= edges.amax(-1) + 1e-4).all()
        assert (gradient[:, axis] >= edges.amin(-1) - 1e-4).all()


@pytest.mark.parametrize("kind", ["normals", "contours"])
def test_a_step_finds_a_wrong_focal_length_where_the_surface_is_known(kind):
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


def test_offsets_do_not_touch_normals_nor_biases_contours():
    assert (normals_now()[0].view_jacobian[..., OFFSET] == 0).all()
    found = contours_now()[0]
    assert (found.view_jacobian[..., BIAS] == 0).all()
    assert (found.shared_jacobian[..., NORMAL_TILT_BIAS] == 0).all()


def test_pixels_that_see_nothing_do_not_count():
    """The surface is far too small: most rays pass it."""
    state = replace(truth(), surface=on_fine_grid(moved(sphere(0.1), CENTRE), 32))
    m = observations()
    index = m.sample_pixels(POINTS, generator())
    found = normal_residuals(m, state, index, torch.zeros(index.numel()))
    assert found.valid.mean() < 0.1
    assert found.value.isfinite().all()
    assert found.view_jacobian.isfinite().all()


# ------------------------------------------------------------------------ correction of normals
def corrected(bias: Tensor, flattening: float) -> tuple[Tensor, Tensor, Tensor]:
    """Corrected and measured normals and the rays of view 0."""
    m = observations()
    index = m.sample_pixels(POINTS, generator())
    state = replace(truth(), bias=bias.expand(3, 3, 3), flattening=torch.tensor(flattening))
    pixels = m.pixels[index].float()
    local = m.directions(pixels, torch.zeros(()))
    result = correct_normals(m.intrinsics, state, m.normals[index], pixels, local)
    return result.normals, m.normals[index], local


def test_a_positive_flattening_turns_normals_away_from_the_camera():
    after, before, local = corrected(torch.zeros(3, 3), 0.05)
    angle_before = (-(before * local).sum(-1)).clamp(-1, 1).acos()
    angle_after = (-(after * local).sum(-1)).clamp(-1, 1).acos()
    expected = angle_before + 0.05 * angle_before.sin()
    seen = angle_before > 0.05
    torch.testing.assert_close(angle_after[seen], expected[seen], atol=2e-4, rtol=0)
    # in the plane of ray and normal
    across = (torch.linalg.cross(before, local) * after).sum(-1)
    assert across.abs().max() < 1e-6


def test_a_constant_bias_is_a_rotation():
    bias = torch.zeros(3, 3)
    bias[:, 0] = torch.tensor([0.01, -0.02, 0.015])
    after, before, _ = corrected(bias, 0.0)
    expected = turned(before.view(-1, 3), bias[:, 0].expand(before[..., 0].numel(), 3))
    torch.testing.assert_close(after.view(-1, 3), expected, atol=5e-4, rtol=0)
    torch.testing.assert_close(after.norm(dim=-1), torch.ones_like(after[..., 0]))


# ------------------------------------------------------------------------ residuals of contours
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
def test_contour_residuals_and_their_derivatives(name):
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


def test_contour_residuals_change_by_the_surface_where_the_ray_is_nearest():
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
    expected = -(found.weights[:, 0] * at_nodes[found.rows]).sum(-1)
    # what is beyond the theorem is quadratic: step * |slope of u|^2 / (2 k), and the grid's place
    assert (slope - expected)[steady].abs().max() < 0.1
    assert (slope - expected)[steady].abs().median() < 0.01
    assert expected[steady].std() > 0.3


def test_pixels_of_the_mask_that_miss_the_surface():
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
def test_a_ray_beside_a_sphere_by_hand(miss, offset):
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
    m = load_observations(capture, (), CPU)
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


# ----------------------------------------------------------------------------- the unknowns
def test_an_increment_turns_cameras_about_the_origin():
    state = State.start(on_fine_grid(sphere(0.6), 32), torch.from_numpy(cameras()))
    views = torch.zeros(3, 16)
    views[0, ROTATION] = torch.tensor([0.0, 0.0, math.pi / 2])
    views[1, TRANSLATION] = torch.tensor([0.1, 0.2, 0.3])
    views[2, OFFSET] = 0.01
    views[2, BIAS] = torch.arange(9) * 1e-3
    nothing = torch.zeros(len(state.surface.grid))
    step = Increment(nothing, views, torch.tensor([0.03, -0.02]))
    after = state.retract(step, 2)
    x, y, z = cameras()[0, :3, 3]
    np.testing.assert_allclose(after.centres[0], [-y, x, z], atol=1e-6)
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    np.testing.assert_allclose(after.rotations[0], quarter @ cameras()[0, :3, :3], atol=1e-6)
    np.testing.assert_allclose(after.c2w()[1, :3, 3], cameras()[1, :3, 3] + [0.1, 0.2, 0.3], 1e-6)
    assert float(after.offsets[2]) == pytest.approx(0.01)
    assert after.bias[2, 1].tolist() == pytest.approx([0.003, 0.004, 0.005])
    assert (float(after.flattening), float(after.log_focal)) == pytest.approx((0.03, -0.02))
    identity = after.rotations.transpose(1, 2) @ after.rotations
    assert (identity - torch.eye(3)).abs().max() < 1e-12


def test_the_surface_moves_at_most_three_cells_in_a_step():
    state = State.start(on_fine_grid(sphere(0.6), 64), torch.from_numpy(cameras()))
    far = Increment(torch.full((len(state.surface.grid),), -1.0), torch.zeros(3, 16),
                    torch.zeros(2))  # fmt: skip
    after = state.retract(far, 6)
    h = state.surface.grid.spacing
    x = normalize(torch.randn(500, 3, generator=generator()), dim=-1) * (0.6 + 3 * h)
    assert after.surface(x).abs().max() < 0.2 * h


# ----------------------------------------------------------------------------------- the rays
def random_rays(count: int) -> tuple[Tensor, Tensor]:
    origin = 5 * normalize(torch.randn(count, 3, generator=generator(3)), dim=-1)
    target = torch.rand(count, 3, generator=generator(4)) * 1.6 - 0.8
    return origin, normalize(target - origin, dim=-1)


@pytest.mark.parametrize(
    "sdf", [RING, union(sphere(0.3, (0.4, 0, 0)), sphere(0.35, (-0.4, 0.1, 0)))],
    ids=["ring", "two balls"],
)  # fmt: skip
def test_least_value_is_the_least(sdf):
    origin, direction = random_rays(400)
    near, far = box_interval(origin, direction)
    step = 0.03
    at, least = closest_approach(sdf, origin, direction, near, far, step)
    t = near[:, None] + torch.linspace(0, 1, 4001) * (far - near)[:, None]
    x = origin[:, None] + t[..., None] * direction[:, None]
    brute = sdf(x.reshape(-1, 3)).view(t.shape).amin(-1)
    assert (least - brute).max() < 2e-3  # between minima, and at the kinks of distances
    assert (least - brute).abs().median() < 5e-5
    assert (brute - least).max() < 5e-4
    torch.testing.assert_close(sdf(origin + at[:, None] * direction), least, atol=1e-5, rtol=0)


def test_least_value_asks_for_few_values():
    asked = []
    sdf = Analytic(lambda x: asked.append(len(x)) or RING(x))
    origin, direction = random_rays(1000)
    closest_approach(sdf, origin, direction, *box_interval(origin, direction), 0.03)
    assert sum(asked) < 65 * len(origin)


# ----------------------------------------------------------------------------- the observations
def test_contour_points_of_a_pixel_and_a_pair():
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    assert sorted(map(tuple, contour_points(mask).tolist())) == [
        (1.5, 1), (2, 0.5), (2, 1.5), (2.5, 1),
    ]  # fmt: skip
    mask[1, 3] = True
    assert len(contour_points(mask)) == 6
    mask[:] = True
    assert len(contour_points(mask)) == 0  # the image's border is no contour


def test_measurements_hold_what_the_views_show():
    m, capture = observations(), ring_capture()
    assert m.names == capture.views
    assert len(m.pixels) == capture.masks.sum()
    for view in range(3):
        rows = slice(int(m.first_pixel[view]), int(m.first_pixel[view + 1]))
        u, v = m.pixels[rows].T
        assert capture.masks[view, v, u].all()
        np.testing.assert_allclose(m.normals[rows], capture.normals[view, v, u], atol=1e-6)
        np.testing.assert_array_equal(m.contour_depth[rows], -m.contour_distance[view, v, u])
        contour = slice(int(m.first_contour_point[view]), int(m.first_contour_point[view + 1]))
        np.testing.assert_array_equal(m.contour[contour], contour_points(capture.masks[view]))
    assert (m.contour_depth > 0).all()


def test_directions_invert_the_projection():
    m = observations()
    pixels = torch.rand(3, 20, 2, generator=generator()) * 50
    focal = torch.tensor(0.05)
    local = m.directions(pixels, focal)
    torch.testing.assert_close(local.norm(dim=-1), torch.ones(3, 20))
    scaled = torch.tensor(K).float()
    scaled[[0, 1], [0, 1]] *= focal.exp()
    projected = local @ scaled.T
    torch.testing.assert_close(projected[..., :2] / projected[..., 2:], pixels, atol=1e-3, rtol=0)


@pytest.mark.parametrize("draw", ["sample_pixels", "sample_contour"])
def test_draws_come_from_each_view_and_can_be_repeated(draw):
    m = observations()
    first = m.first_pixel if draw == "sample_pixels" else m.first_contour_point
    one, again = (getattr(m, draw)(4000, generator(5)) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, getattr(m, draw)(4000, generator(6)))
    for view in range(3):
        assert one[view].min() >= first[view]
        assert one[view].max() < first[view + 1]
        middle = float((one[view] - first[view]).float().mean() / (first[view + 1] - first[view]))
        assert middle == pytest.approx(0.5, abs=0.02)  # 4 standard errors


def test_excluded_views_and_heldout_pixels():
    capture = ring_capture()
    four = replace(
        capture, views=("a", "b", "c", "d"),
        **{key: np.concatenate([getattr(capture, key), getattr(capture, key)[:1]])
           for key in ("normals", "masks", "intrinsics", "reference_c2w")},
    )  # fmt: skip
    without = load_observations(four, ("b",), CPU)
    assert without.names == ("a", "c", "d")
    assert torch.equal(without.pixels[: int(without.first_pixel[1])],
                       observations().pixels[: int(observations().first_pixel[1])])  # fmt: skip
    part = load_observations(capture, (), CPU, heldout=0.3)
    assert len(part.pixels) < len(observations().pixels)
    assert len(part.contour) < len(observations().contour)


def test_what_cannot_be_refined_is_one_line():
    capture = ring_capture()
    with pytest.raises(InputError, match=r"ring: exclude_views names 'x'.*views are a, b, c"):
        load_observations(capture, ("x",), CPU)
    with pytest.raises(InputError, match="ring: 2 views are too few to refine; give 3"):
        load_observations(capture, ("c",), CPU)
    masks = capture.masks.copy()
    masks[1] = False
    masks[1, 5, 5:12] = True
    with pytest.raises(InputError, match="ring: view b shows only 7 pixels of the object"):
        load_observations(replace(capture, masks=masks), (), CPU)
