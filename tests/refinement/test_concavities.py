"""Where the surface closes over hollows, or has sunk: a ring with a web across its hole, or too
thin.

The views show the ring itself, and through the web the far side of the hole.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from fixtures.analytic_sdfs import Analytic, box, torus, union
from fixtures.refinement import observations_of
from torch import Tensor

from pmni.config.refinement import ConcavitySettings, RefineSettings
from pmni.data.capture import Capture
from pmni.geometry.cameras import look_at
from pmni.refinement.concavities import (
    concavity_residuals,
    count_votes,
    free_space_violations,
)
from pmni.refinement.observations import Observations
from pmni.refinement.residuals import first_hits, rays_through
from pmni.refinement.solver import GaussNewtonSolver
from pmni.refinement.state import State
from pmni.sdf.block_grid import BLOCK, BlockGrid
from pmni.sdf.grid import GridSDF, grid_nodes
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.sphere_tracing import box_interval, trace, visible

SETTINGS = ConcavitySettings(samples_in_front=12)
CPU = torch.device("cpu")
CELLS, VIEWS, HEIGHT, WIDTH = 128, 10, 90, 96
K = np.array([[420.0, 0, 47.5], [0, 420.0, 44.5], [0, 0, 1]])
RING = torus(0.5, 0.2)
WEB = box(0.28, 0.28, 0.03)
"""In the middle of the hole, 0.3 wide, whose walls are up to 0.2 above and below."""


def cameras() -> np.ndarray:
    """All round, 45 degrees above."""
    azimuth = 2 * np.pi * np.arange(VIEWS) / VIEWS
    positions = 4.2 * np.stack([np.cos(azimuth), np.sin(azimuth), np.ones(VIEWS)], -1)
    return np.stack([look_at(position, np.zeros(3)) for position in positions])


@cache
def observations(noise: float = 0.0) -> Observations:
    """Normals that are `noise` radians off, and exact masks."""
    rng = np.random.default_rng(0)
    v, u = np.mgrid[:HEIGHT, :WIDTH].reshape(2, -1).astype(float)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T
    rays = torch.from_numpy(rays / np.linalg.norm(rays, axis=-1, keepdims=True))
    masks, normals = [], []
    for pose in torch.from_numpy(cameras()):
        direction = rays @ pose[:3, :3].T
        origin = pose[:3, 3].expand_as(direction).contiguous()
        hits = trace(RING, origin, direction, *box_interval(origin, direction))
        x = origin + hits.distance[:, None].nan_to_num() * direction
        normal = RING.value_and_gradient(x)[1] @ pose[:3, :3]
        normal = normal + noise * torch.from_numpy(rng.standard_normal(normal.shape))
        normal = torch.nn.functional.normalize(normal, dim=-1) * hits.mask[:, None]
        masks.append(hits.mask.view(HEIGHT, WIDTH).numpy())
        normals.append(normal.view(HEIGHT, WIDTH, 3).numpy().astype(np.float32))
    names = tuple(f"{view:02d}" for view in range(VIEWS))
    capture = Capture(np.stack(normals), np.stack(masks), np.stack([K] * VIEWS), names, "ring")
    return observations_of(capture)


def state(surface: Analytic) -> State:
    """Exact values at the nodes near a surface, and the true cameras."""
    side, coarse = CELLS // BLOCK + 1, 65
    middle = (torch.arange(side) * BLOCK + 1.5) * (2 / CELLS) - 1
    middles = torch.stack(torch.meshgrid(middle, middle, middle, indexing="ij"), -1)
    grid = BlockGrid(CELLS, surface(middles.view(-1, 3)).abs().view((side,) * 3) < 9 * 2 / CELLS)
    base = GridSDF(surface(grid_nodes(coarse, CPU).view(-1, 3)).view((coarse,) * 3))
    sdf = NarrowBandSDF(grid, surface(grid.positions()), base)
    return State.start(sdf, torch.from_numpy(cameras()))


def rays(m: Observations, now: State, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Origins, directions, and where they meet the surface of the state."""
    _, origin, d = rays_through(m, now, m.pixels[index].float())
    return origin, d, first_hits(now.surface, origin, d)[1]


def true_points(origin: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays meet the ring, and its normals."""
    hits = trace(RING, origin, d, *box_interval(origin, d))
    assert hits.mask.float().mean() > 0.99  # at the very edge they may miss it
    x = origin + hits.distance.nan_to_num()[:, None] * d
    return x, RING.value_and_gradient(x)[1]


def test_views_agree_where_they_see_the_same_point() -> None:
    m, now = observations(), state(RING)
    index = m.sample_pixels(300, torch.Generator().manual_seed(0))
    origin, d, _ = rays(m, now, index)
    x, n = true_points(origin, d)
    view = torch.arange(VIEWS).repeat_interleave(300)
    seen = torch.zeros(len(x))
    for other, C in enumerate(now.centres.float()):
        facing = (n * torch.nn.functional.normalize(C - x, dim=-1)).sum(-1)
        may_see = (facing > SETTINGS.min_visible_cosine) & (view != other)
        seen += may_see & visible(RING, x + 0.01 * n, C.expand_as(x))
    votes = count_votes(m, now, x[:, None], n, view, SETTINGS)[:, 0]
    # Beside an edge that hides the point from a view, the view's nearest pixel may show it or not.
    assert (votes - seen).abs().median() < 0.25  # of up to 9: pixels are 0.06 radians wide
    assert ((votes - seen).abs() < 1).float().mean() > 0.9
    assert seen.max() >= 6
    assert seen.min() <= 2


def test_the_true_surface_stays() -> None:
    m, now = observations(), state(RING)
    index = m.sample_pixels(1000, torch.Generator().manual_seed(0))
    assert concavity_residuals(m, now, index, SETTINGS).valid.mean() < 0.002


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_web_is_pushed_towards_what_is_behind_it(noise: float) -> None:
    m, now = observations(noise), state(union(RING, WEB))
    index = m.sample_pixels(1000, torch.Generator().manual_seed(0))
    origin, d, x = rays(m, now, index)
    found = concavity_residuals(m, now, index, SETTINGS)
    pushed = found.valid > 0
    true, _ = true_points(origin, d)
    behind = ((true - x) * d).sum(-1)
    on_web = RING(x) > 0.03
    assert pushed[on_web & (behind > 0.05) & (behind < 0.09)].float().mean() > 0.3
    assert pushed[~on_web].float().mean() < 0.02
    # Less than a cell, and never farther than the ring is, but for the distance of two points.
    cell = now.surface.grid.spacing
    assert (found.value[pushed, 0].abs() <= 0.71 * cell).all()
    assert (found.value[pushed, 0].abs() > 0.05 * cell).all()
    assert (behind[pushed & on_web] > 0.25 * cell).float().mean() > 0.95
    assert (found.value[pushed & on_web, 0] > 0).float().mean() > 0.97
    assert (found.view_jacobian == 0).all()


def test_a_sunken_surface_is_pulled_out() -> None:
    m, now = observations(), state(torus(0.5, 0.17))
    index = m.sample_pixels(1000, torch.Generator().manual_seed(0))
    origin, d, x = rays(m, now, index)
    before = ((x - true_points(origin, d)[0]) * d).sum(-1)  # 2 cells and more
    found = concavity_residuals(m, now, index, SETTINGS)
    pushed = found.valid > 0
    assert pushed[before > 0.025].float().mean() > 0.7
    assert (found.value[pushed, 0] < 0).float().mean() > 0.99
    assert (found.value[:, 0] >= -0.71 * now.surface.grid.spacing)[pushed].all()


def test_views_refute_a_web_and_not_what_is_there() -> None:
    m = observations()
    index = m.sample_pixels(1000, torch.Generator().manual_seed(0))
    view = torch.arange(VIEWS).repeat_interleave(1000)
    now = state(RING)
    assert not free_space_violations(m, now, rays(m, now, index)[2], view, SETTINGS).any()
    now = state(union(RING, WEB))
    x = rays(m, now, index)[2]
    on_web = RING(x) > 0.03
    found = free_space_violations(m, now, x, view, SETTINGS)
    assert found[on_web].float().mean() > 0.5
    assert found[~on_web].float().mean() < 0.02
    # It yields there, whether or not views agree on what is behind.
    pushes = concavity_residuals(m, now, index, SETTINGS)
    assert (pushes.valid[found & on_web] > 0).float().mean() > 0.9
    assert (pushes.value[found & on_web & (pushes.valid > 0), 0] > 0).all()


def test_too_few_views_refute_nothing() -> None:
    m, now = observations(), state(union(RING, WEB))
    index = m.sample_pixels(1000, torch.Generator().manual_seed(0))
    view = torch.arange(VIEWS).repeat_interleave(1000)
    shown = torch.full_like(m.pixel_index, -1)
    few = SETTINGS.min_violating_views
    shown[:few] = m.pixel_index[:few]  # each of them has one other too few
    x = rays(m, now, index)[2]
    alone = free_space_violations(replace(m, pixel_index=shown), now, x, view, SETTINGS)
    assert not alone[: few * 1000].any()
    assert alone[few * 1000 :].any()


def test_two_views_are_too_few_to_agree() -> None:
    m, now = observations(), state(union(RING, WEB))
    assert SETTINGS.min_votes > 2
    index = m.sample_pixels(1000, torch.Generator().manual_seed(0))
    shown = torch.full_like(m.pixel_index, -1)
    shown[:3] = m.pixel_index[:3]
    assert concavity_residuals(m, now, index, SETTINGS).valid[:1000].sum() > 0
    assert (
        concavity_residuals(replace(m, pixel_index=shown), now, index, SETTINGS).valid[:1000].sum()
        == 0
    )


def test_refinement_looks_for_hollows_except_on_the_coarsest_grid() -> None:
    m, now = observations(), state(union(RING, WEB))
    settings = RefineSettings(device="cpu", cells=CELLS, pixels=1500)
    c2w = torch.from_numpy(cameras())
    solver = GaussNewtonSolver(m, now.surface.background, c2w, settings)
    solver.state = now
    *_, hollows = solver.linearize().terms
    pushed = hollows.root_weight > 0
    assert torch.equal(pushed, hollows.residuals.valid > 0)
    assert pushed.sum() > 20
    assert (hollows.residuals.value[pushed] > 0).all()
    assert len(GaussNewtonSolver(m, now.surface.background, c2w, settings).linearize().terms) == 3
