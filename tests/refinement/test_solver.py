"""The solver: the grids it chooses, and the systematic errors it finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.refinement import HEIGHT, PIXEL, WIDTH, K, blob, cameras, observations_of, refined
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.spatial.transform import Rotation

from pmni.config.refinement import (
    RefineSettings,
)
from pmni.data.capture import Capture
from pmni.errors import LostSurfaceError
from pmni.geometry.cameras import pixel_grid, ray_directions
from pmni.geometry.silhouettes import extrapolate
from pmni.refinement.solver import GaussNewtonSolver, finest_cells
from pmni.sdf.grid import GridSDF


def test_a_surface_that_no_ray_meets_is_lost() -> None:
    observations = observations_of(blob()[0])
    nothing = GridSDF(torch.full((33, 33, 33), 0.5))
    solver = GaussNewtonSolver(
        observations,
        nothing,
        torch.from_numpy(cameras()),
        RefineSettings(pixels=200, coarsest_cells=32),
    )
    with pytest.raises(LostSurfaceError, match="no pixel of any mask sees the surface"):
        solver.step(32)


def test_the_grid_is_as_fine_as_the_pixels() -> None:
    observations = observations_of(blob()[0])
    c2w = torch.from_numpy(cameras())
    assert finest_cells(observations, c2w, 0.7) == 128
    for sharper, cells in ((2, 256), (6, 512), (24, 512)):
        zoomed = replace(observations, intrinsics=observations.intrinsics * sharper)
        assert finest_cells(zoomed, c2w, 0.7) == cells


def tilted(capture: Capture, amount: float) -> Capture:
    """Normals drawn towards the camera by amount * sin(angle to it), radians."""
    rays = ray_directions(pixel_grid(HEIGHT, WIDTH), np.linalg.inv(K))
    axis = np.cross(-rays, capture.normals)  # sin(angle) long: turning about it raises the angle
    turn = Rotation.from_rotvec(-amount * axis.reshape(-1, 3))
    normals = turn.apply(capture.normals.reshape(-1, 3)).reshape(capture.normals.shape)
    return replace(capture, normals=normals)


@pytest.mark.parametrize("amount", [0.0, 0.08])
def test_a_tilt_bias_is_found_and_none_where_there_is_none(amount: float) -> None:
    solver, _ = refined(
        tilted(blob()[0], amount), cameras(), learn_poses=False, pixels=600,
        iterations=[2, 1, 4],
    )  # fmt: skip
    found = float(solver.state.normal_tilt_bias)
    assert found == pytest.approx(amount, abs=max(0.4 * abs(amount), 0.01))


def remasked(capture: Capture, grow: list[int]) -> Capture:
    """Masks larger or smaller by a pixel; normals outside are the nearest ones."""
    shape = {1: binary_dilation, -1: binary_erosion, 0: lambda mask: mask}
    masks = np.stack([shape[by](mask) for by, mask in zip(grow, capture.masks, strict=True)])
    normals = np.stack(
        [extrapolate(n, m) for n, m in zip(capture.normals, capture.masks, strict=True)]
    )
    return replace(capture, masks=masks, normals=normals * masks[..., None])


def test_masks_that_are_too_large_or_small_are_found() -> None:
    """One more pixel along rows and columns: 1 to 0.7 pixels across the contour."""
    grow = [1, 0, -1, 0, 1, -1, 0, 1, 0, -1]
    solver, _ = refined(
        remasked(blob()[0], grow), cameras(), learn_poses=False, pixels=700, iterations=[2, 1, 5]
    )
    found = solver.state.offsets.numpy() / PIXEL
    np.testing.assert_allclose(found, 0.87 * np.array(grow), atol=0.3)
