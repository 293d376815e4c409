"""Views that refinement has left behind: their poses are searched anew on the others' surface.

A view that starts some 20 degrees wrong may stay there while all others come right. On the surface
that these have made it is a small problem of its own: from copies of its pose, turned about the
object, Gauss-Newton steps of the pose alone lead to several places, and the normals tell the right
one.
"""

import logging
import math
from dataclasses import replace
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.refinement.pose_step import pose_step
from pmni.refinement.solver import STRAY, GaussNewtonSolver
from pmni.refinement.state import State, cross_matrix

LOGGER = logging.getLogger("refine")
MOST_LEFT = 0.7
"""The part of its residual that another pose may leave to be taken."""
TURNS_DEG = 12.0, 25.0
"""Of the copies, about each axis."""
STEPS = 10
"""Of the copies' poses."""
PIXELS = 1500
"""Drawn from each copy in a step."""
AT_A_TIME = 3
"""Strays that are looked for after a grid, the worst first."""


@torch.no_grad()
def relocalize_outlier_views(solver: GaussNewtonSolver) -> list[int]:
    """Put the strays of a refinement where they fit far better; returns which were."""
    scales = solver.linearize().scales
    residuals = scales.normal_by_view
    moved = []
    for view in residuals.argsort(descending=True)[:AT_A_TIME].tolist():
        if float(residuals[view]) < STRAY * scales.normal:
            break
        turned = _turns().to(solver.observations.device) @ solver.state.c2w()[view]
        pose, residual = best_pose(solver, view, turned)
        if residual < MOST_LEFT * float(residuals[view]):
            c2w = solver.state.c2w()
            c2w[view] = pose
            solver.state = replace(solver.state, rotations=c2w[:, :3, :3], centres=c2w[:, :3, 3])
            LOGGER.info("view %s had gone astray and is found", solver.observations.names[view])
            moved.append(view)
    return moved


@torch.no_grad()
def best_pose(
    solver: GaussNewtonSolver, view: int, c2w: Float[Tensor, "K 4 4"]
) -> tuple[Float[Tensor, "4 4"], float]:
    """Of those that steps of a view's pose lead to from each of some; and the normals' residual
    there, radians."""
    surface, settings = solver.state.surface, solver.settings
    copies = solver.observations.copies(view, len(c2w))
    settings = settings.model_copy(update={"pixels": PIXELS})
    for step in range(STEPS):
        c2w = pose_step(copies, surface, c2w, settings.model_copy(update={"seed": step}))
    judge = GaussNewtonSolver(copies, surface.background, c2w, settings)
    judge.state = State.start(surface, c2w)
    residuals = judge.linearize().scales.normal_by_view
    best = int(residuals.argmin())
    return c2w[best], float(residuals[best])


def _turns() -> Float[Tensor, "K 4 4"]:
    """No turn, and turns about the origin by each angle, about the 14 axes of a cube."""
    axes = [axis for axis in product((-1.0, 0.0, 1.0), repeat=3) if sum(map(abs, axis)) in (1, 3)]
    unit = torch.nn.functional.normalize(torch.tensor(axes, dtype=torch.float64), dim=-1)
    vectors = [math.radians(angle) * unit for angle in TURNS_DEG]
    rotation = torch.linalg.matrix_exp(cross_matrix(torch.cat([0 * unit[:1], *vectors])))
    turns = torch.eye(4, dtype=torch.float64).repeat(len(rotation), 1, 1)
    turns[:, :3, :3] = rotation
    return turns
