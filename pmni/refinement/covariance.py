"""Covariances of the refined poses."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pmni.refinement.normal_equations import WeightedResiduals
from pmni.refinement.solver import GaussNewtonSolver
from pmni.refinement.state import ROTATION, TRANSLATION, VIEW_UNKNOWNS

POSE = slice(ROTATION.start, TRANSLATION.stop)
"""Columns of a view's left perturbation."""


@torch.no_grad()
def pose_covariances(solver: GaussNewtonSolver) -> Float[np.ndarray, "V 6 6"]:
    """Covariance of each pose's left perturbation (rotation in radians, then translation).

    The sandwich H^-1 (sum over patches g g^T) H^-1 with the view's block H of the normal equations
    and the patches' shares g of the right-hand side (White, 1980; Liang and Zeger, 1986): errors of
    normals are correlated over many pixels, and the residuals themselves tell how.
    """
    settings = solver.settings.covariance
    linearization = solver.linearize()
    views = len(solver.observations)
    footprint = solver.observations.pixel_footprint(solver.state.centres)
    side = (settings.patch_size / footprint).float()[:, None, None]
    pixels = solver.observations.pixels[linearization.pixels]
    contour = solver.observations.contour[linearization.contour]
    free = solver.free_view().double()
    H = torch.diag_embed(solver.prior(linearization).view_weight.double())
    shares, patches = [], []
    for term, points in ((linearization.normals, pixels), (linearization.contours, contour)):
        J, r = _weighted(term, views)
        J = J * free
        H = H + J.transpose(1, 2) @ J
        components = term.residuals.value.shape[1]
        g = (J * r[..., None]).view(views, -1, components, VIEW_UNKNOWNS).sum(2)
        shares.append(g)
        patches.append((points / side).long())
    g, patch = torch.cat(shares, dim=1), torch.cat(patches, dim=1)
    middle = torch.stack([_patch_products(gi, pi) for gi, pi in zip(g, patch, strict=True)])
    H = H + torch.diag_embed(1 - free) + 1e-12 * torch.eye(VIEW_UNKNOWNS, device=H.device)
    inverse = torch.linalg.inv(H)
    covariance = settings.inflation * inverse @ middle @ inverse
    return covariance[:, POSE, POSE].cpu().numpy()


def _weighted(
    term: WeightedResiduals, views: int
) -> tuple[Float[Tensor, "V K 16"], Float[Tensor, "V K"]]:
    """Derivatives by the views' unknowns, and residuals, times the weights' square roots."""
    w = term.root_weight[:, None].double()
    J = (term.residuals.view_jacobian * w[..., None]).reshape(views, -1, VIEW_UNKNOWNS)
    return J, (term.residuals.value * w).reshape(views, -1)


def _patch_products(g: Float[Tensor, "K 16"], patch: Int[Tensor, "K 2"]) -> Float[Tensor, "16 16"]:
    """The sum over patches of (sum of their shares) (sum of their shares)^T."""
    _, index = torch.unique(patch, dim=0, return_inverse=True)
    sums = g.new_zeros(int(index.max()) + 1, VIEW_UNKNOWNS).index_add_(0, index, g)
    return sums.T @ sums
