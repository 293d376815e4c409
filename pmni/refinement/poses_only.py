"""A Gauss-Newton step of the poses on a surface that stays as it is."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.fields.band import BandSDF
from pmni.refinement.estimate import COMMON_UNKNOWNS, Estimate, Increment
from pmni.refinement.normal_equations import NormalEquations
from pmni.refinement.refine import DAMPING, Refiner


@torch.no_grad()
def pose_step(
    refiner: Refiner, surface: BandSDF, c2w: Float[Tensor, "V 4 4"], seed: int
) -> Float[Tensor, "V 4 4"]:
    """The poses after one step from `c2w`; depends on nothing else that the refiner holds but its
    measurements and settings.

    Each view's pose is solved for together with its own normal bias and contour offset, which are
    then forgotten. With the surface fixed, the views' blocks are all there is.
    """
    refiner.generator.manual_seed(seed)
    refiner.estimate = replace(Estimate.start(surface, c2w), surface=surface)
    now = refiner.linearise()
    equations = NormalEquations(
        surface.grid,
        (now.normals, now.contours),
        len(refiner.measurements),
        refiner.prior(now),
        refiner.free_view(),
        torch.zeros(COMMON_UNKNOWNS, dtype=torch.bool, device=c2w.device),
        DAMPING,
    )
    step = equations.precondition(equations.right_side())
    still = Increment(torch.zeros_like(surface.values), step.views, torch.zeros_like(step.common))
    refiner.estimate = refiner.estimate.moved(still, 0)
    return refiner.estimate.c2w()
