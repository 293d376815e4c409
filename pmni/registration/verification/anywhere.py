"""A view that fits where no pair of views suggests: searched on the surface of the others."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from pmni.geometry.cameras import look_at
from pmni.refinement.outlier_views import best_pose
from pmni.registration.verification.trial import Trial, explained, middles

ROLLS = 12
"""About the line of sight of each view that is in its place."""
STARTS = 24
"""Poses, those that explain the view best, from which steps are done."""


def anywhere(
    trial: Trial, view: int, placed: Float[np.ndarray, "P 4 4"]
) -> Float[np.ndarray, "4 4"]:
    """The camera-to-world pose in which a view fits best, among those that steps lead to from where
    the `placed` views see the object."""
    observations, surface = trial.solver.observations, trial.solver.state.surface
    starts = torch.as_tensor(_beside(trial, view, placed), device=observations.device)
    score = explained(observations, surface, starts, view)
    leading = starts[score.topk(min(STARTS, len(starts))).indices]
    return best_pose(trial.solver, view, leading)[0].cpu().numpy()


def _beside(
    trial: Trial, view: int, placed: Float[np.ndarray, "P 4 4"]
) -> Float[np.ndarray, "K 4 4"]:
    """The view's poses from where others are, as far off as it is, with its mask's centre at the
    object's, rolled by any angle."""
    distance = float(np.linalg.norm(trial.c2w[view, :3, 3]))
    middle = middles(trial.solver.observations)[view]
    to_axis, _ = Rotation.align_vectors([[0.0, 0.0, 1.0]], [middle])
    found = []
    for centre in placed[:, :3, 3]:
        position = distance * centre / np.linalg.norm(centre)
        across = np.eye(3)[np.abs(centre).argmin()]
        for roll in np.arange(ROLLS) * (2 * np.pi / ROLLS):
            pose = look_at(position, np.zeros(3), tuple(across), roll)
            pose[:3, :3] = pose[:3, :3] @ to_axis.as_matrix()
            found.append(pose)
    return np.stack(found)
