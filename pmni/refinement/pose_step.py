"""A Gauss-Newton step of the poses on a surface that stays as it is."""

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.refinement import RefineSettings
from pmni.refinement.normal_equations import NormalEquations
from pmni.refinement.observations import Observations
from pmni.refinement.solver import GaussNewtonSolver
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
    then forgotten: with the surface fixed, the normal equations are the views' blocks.
    """
    solver = GaussNewtonSolver(observations, surface.background, c2w, settings)
    solver.state = State.start(surface, c2w)
    linearization = solver.linearize()
    equations = NormalEquations(
        surface,
        linearization.terms[:2],
        len(observations),
        solver.prior(linearization),
        solver.free_view(),
        torch.zeros(SHARED_UNKNOWNS, dtype=torch.bool, device=c2w.device),
        settings.solver,
    )
    return solver.state.retract_views(equations.precondition(equations.rhs())).c2w()
