"""Rotational symmetry of the object, as seen by pairs of views."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.registration import RegisterSettings
from pmni.registration.multiview.graph import PairGraph
from pmni.registration.pairwise.alignment import pair_equations, perturbed
from pmni.registration.pairwise.overlap import overlap_score
from pmni.registration.working_views import WorkingViews

MAX_PAIRS = 60
"""Most pairs that are tried, those with the highest scores."""
ROTATIONS_DEG = (-40.0, -20.0, 20.0, 40.0)
"""Angles by which one view of a pair is rotated about the weakest axis, degrees."""
SIGMA_DEPTH = 0.15
"""Scale of differences of depths in the pairs' equations, object radii."""


def rotational_symmetry_score(
    views: WorkingViews, graph: PairGraph, settings: RegisterSettings
) -> float:
    """Fraction of a pair's overlap score that is lost when one view is rotated about the pair's
    weakest axis, the median over pairs; 0 for an object of revolution.

    The weakest axis is that of the screw motion which the pair's normal equations resist least.
    """
    objective, joint = settings.multiview.objective, settings.multiview.joint
    pairwise, angle = settings.pairwise, float(np.deg2rad(objective.angle_deg))
    best = np.argsort(-graph.scores[:, 0], kind="stable")[:MAX_PAIRS]
    first, second = (torch.as_tensor(graph.pairs[best, side]) for side in (0, 1))
    first, second = first.to(views.device), second.to(views.device)
    R = torch.as_tensor(graph.rotations[best, 0], dtype=torch.float32, device=views.device)
    t = torch.as_tensor(graph.translations[best, 0], dtype=torch.float32, device=views.device)
    scales = joint.sigma_normal, SIGMA_DEPTH
    A, _, _ = pair_equations(views, first, second, R, t, *scales, pairwise.alignment)
    weakest = weakest_screw(A.double()).float()
    centre = views.centres[second]
    scores = []
    for degrees in (0.0, *ROTATIONS_DEG):
        rotated = perturbed(R, t, weakest * float(np.deg2rad(degrees)), centre)
        pairs = (views, first, second, *rotated)
        overlap = overlap_score(*pairs, objective.depth_tolerance, angle, pairwise.overlap)
        scores.append(overlap.normalised())
    unrotated, *others = scores
    lost = unrotated - torch.stack(others).mean(0)
    return float((lost / unrotated.clamp(min=0.1)).median())


def weakest_screw(A: Float[Tensor, "K 6 6"]) -> Float[Tensor, "K 6"]:
    """The screw motion (rotation, translation) per radian that costs least, with free
    translation."""
    least = torch.eye(3, dtype=A.dtype, device=A.device) * 1e-9
    follow = torch.linalg.solve(A[:, 3:, 3:] + least, A[:, 3:, :3])  # minus it: translation
    rotation = A[:, :3, :3] - A[:, :3, 3:] @ follow
    axis = torch.linalg.eigh(rotation).eigenvectors[:, :, 0]
    return torch.cat([axis, -(follow @ axis[..., None])[..., 0]], dim=-1)
