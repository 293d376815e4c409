"""Views that refinement has left behind: their poses are searched anew on the others' surface.

A view that starts some 20 degrees wrong may stay there while all others come right. On the surface
that these have made it is a small problem of its own: from copies of its pose, rotated about the
object, Gauss-Newton steps of the pose alone lead to several places, and the normals tell the right
one.
"""

import math
from collections.abc import Callable
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.geometry.rotations import exp_so3
from pmni.refinement.pose_step import pose_step
from pmni.refinement.solver import GaussNewtonSolver
from pmni.refinement.state import State


@torch.no_grad()
def relocalize_outlier_views(
    solver: GaussNewtonSolver, progress: Callable[[str], None] = lambda line: None
) -> list[int]:
    """Move outlier views to where they fit far better; returns their indices."""
    settings = solver.settings.outlier_views
    scales = solver.linearize().scales
    residuals = scales.normal_by_view
    relocalized = []
    for view in residuals.argsort(descending=True)[: settings.max_views].tolist():
        if float(residuals[view]) < settings.residual_ratio * scales.normal:
            break
        rotations = initial_rotations(settings.rotations_deg).to(solver.observations.device)
        pose, residual = best_pose(solver, view, rotations @ solver.state.c2w()[view])
        if residual < settings.max_residual_ratio * float(residuals[view]):
            c2w = solver.state.c2w()
            c2w[view] = pose
            solver.state = solver.state.with_poses(c2w)
            progress(f"view {solver.observations.names[view]} was an outlier and is relocalised")
            relocalized.append(view)
    return relocalized


@torch.no_grad()
def best_pose(
    solver: GaussNewtonSolver, view: int, c2w: Float[Tensor, "K 4 4"]
) -> tuple[Float[Tensor, "4 4"], float]:
    """The best of the poses to which steps of a view's pose lead from K initial ones; and its
    normals' median residual, radians."""
    surface = solver.state.surface
    copies = solver.observations.repeat_view(view, len(c2w))
    outlier_views = solver.settings.outlier_views
    settings = solver.settings.model_copy(
        update={
            "pixels": outlier_views.pixels,
            "coarsest_cells": outlier_views.fixed_bias_cells,
        }
    )
    for step in range(outlier_views.steps):
        c2w = pose_step(copies, surface, c2w, settings.model_copy(update={"seed": step}))
    judge = GaussNewtonSolver(copies, surface.background, c2w, settings)
    judge.state = State.start(surface, c2w)
    residuals = judge.linearize().scales.normal_by_view
    best = int(residuals.argmin())
    return c2w[best], float(residuals[best])


def initial_rotations(angles_deg: tuple[float, ...]) -> Float[Tensor, "K 4 4"]:
    """The identity, and rotations about the origin by each angle, about the 14 axes of a cube."""
    axes = [axis for axis in product((-1.0, 0.0, 1.0), repeat=3) if sum(map(abs, axis)) in (1, 3)]
    unit = torch.nn.functional.normalize(torch.tensor(axes, dtype=torch.float64), dim=-1)
    vectors = [math.radians(angle) * unit for angle in angles_deg]
    rotation = exp_so3(torch.cat([0 * unit[:1], *vectors]))
    matrices = torch.eye(4, dtype=torch.float64).repeat(len(rotation), 1, 1)
    matrices[:, :3, :3] = rotation
    return matrices
