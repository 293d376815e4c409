"""A Gauss-Newton step of the poses on a surface that stays as it is."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.refinement import RefineSettings
from pmni.refinement.normal_equations import NormalEquations
from pmni.refinement.observations import Observations
from pmni.refinement.solver import DAMPING, GaussNewtonSolver
from pmni.refinement.state import SHARED_UNKNOWNS, State
from pmni.sdf.narrow_band import NarrowBandSDF


@torch.no_grad()
def pose_step(
    observations: Observations,
    surface: NarrowBandSDF,
    c2w: Float[Tensor, "V 4 4"],
    settings: RefineSettings,
) -> Float[Tensor, "V 4 4"]:
    """The poses after one step from `c2w`.

    Each view's pose is solved for together with its own normal bias and contour offset, which are
    then forgotten: with the surface fixed, the views' blocks of the normal equations are all there
    is.
    """
    solver = GaussNewtonSolver(observations, surface.background, c2w, settings)
    solver.state = State.start(surface, c2w)
    now = solver.linearize()
    equations = NormalEquations(
        surface,
        (now.normals, now.contours),
        len(observations),
        solver.prior(now),
        solver.free_view(),
        torch.zeros(SHARED_UNKNOWNS, dtype=torch.bool, device=c2w.device),
        DAMPING,
    )
    step = equations.precondition(equations.rhs())
    still = torch.zeros_like(surface.values)
    return solver.state.retract(replace(step, surface=still), 0).c2w()
