"""Whether the object looks the same from all sides of an axis, as pairs of views show it."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pmni.registration.multiview.graph import PairGraph
from pmni.registration.multiview.joint import SIGMA_NORMAL
from pmni.registration.multiview.objective import ANGLE, TOLERANCE
from pmni.registration.pairwise.alignment import pair_equations, perturbed
from pmni.registration.pairwise.scoring import agreement
from pmni.registration.views import Views

PAIRS = 60
"""Most pairs that are tried, those that agree best."""
TURNS_DEG = (-40.0, -20.0, 20.0, 40.0)
"""By how much one view of a pair is turned about the weakest axis."""
SIGMA_DEPTH = 0.15
"""Scale of the depths' differences in the pairs' equations, object radii."""


def turning_loss(views: Views, graph: PairGraph) -> float:
    """What part of a pair's agreement is lost when one view is turned about the pair's weakest
    axis: the median over pairs; 0 for a body of revolution.

    The weakest axis is that of the screw motion which the pair's normal equations resist least.
    """
    best = np.argsort(-graph.scores[:, 0], kind="stable")[:PAIRS]
    first, second = (torch.as_tensor(graph.pairs[best, side]) for side in (0, 1))
    first, second = first.to(views.device), second.to(views.device)
    R = torch.as_tensor(graph.rotations[best, 0], dtype=torch.float32, device=views.device)
    t = torch.as_tensor(graph.translations[best, 0], dtype=torch.float32, device=views.device)
    A, _, _ = pair_equations(views, first, second, R, t, SIGMA_NORMAL, SIGMA_DEPTH)
    weakest = weakest_screw(A.double()).float()
    centre = views.centres[second]
    kept = []
    for degrees in (0.0, *TURNS_DEG):
        turned = perturbed(R, t, weakest * float(np.deg2rad(degrees)), centre)
        kept.append(agreement(views, first, second, *turned, TOLERANCE, ANGLE).normalised())
    here, *away = kept
    lost = here - torch.stack(away).mean(0)
    return float((lost / here.clamp(min=0.1)).median())


def weakest_screw(A: Float[Tensor, "K 6 6"]) -> Float[Tensor, "K 6"]:
    """(translation, rotation) per radian of the rotation that costs least, the translation free."""
    least = torch.eye(3, dtype=A.dtype, device=A.device) * 1e-9
    follow = torch.linalg.solve(A[:, :3, :3] + least, A[:, :3, 3:])  # minus it: translation
    rotation = A[:, 3:, 3:] - A[:, 3:, :3] @ follow
    axis = torch.linalg.eigh(rotation).eigenvectors[:, :, 0]
    return torch.cat([-(follow @ axis[..., None])[..., 0], axis], dim=-1)
