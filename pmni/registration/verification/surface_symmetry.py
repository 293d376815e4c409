"""Rotational symmetry of the object, as seen by all views on a common surface."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from pmni.config.registration import VerificationSettings
from pmni.registration.verification.trial import COARSE_CELLS, Trial, normal_consistency
from pmni.sdf.grid import grid_nodes
from pmni.sdf.sdf import SDF

ROTATIONS = 4
"""Parts of a full turn by which views are rotated about an axis."""


def symmetry_loss(trial: Trial, settings: VerificationSettings) -> float:
    """Loss of normal consistency when all views are rotated about an axis: the largest over angles,
    the least over axes.

    The object's principal axes are tried, and axes around them if the loss is small.
    """
    points = inner_points(trial.solver.state.surface)
    middle = points.mean(0)
    _, principal = np.linalg.eigh(np.cov((points - middle).T))
    losses = [_rotation_loss(trial, axis, middle, settings) for axis in principal.T]
    best = int(np.argmin(losses))
    if not settings.min_symmetry_loss < losses[best] < settings.near_symmetry_loss:
        return losses[best]
    axis, across = principal[:, best], np.delete(principal, best, axis=1)

    def loss(x: Float[np.ndarray, "4"]) -> float:
        tilted = axis + across @ x[:2]
        tilted /= np.linalg.norm(tilted)
        return _rotation_loss(trial, tilted, middle + across @ x[2:], settings)

    simplex = 0.04 * np.vstack([np.zeros(4), np.eye(4)])
    options = {"maxfev": 40, "initial_simplex": simplex}
    return float(minimize(loss, np.zeros(4), method="Nelder-Mead", options=options).fun)


def _rotation_loss(
    trial: Trial,
    axis: Float[np.ndarray, "3"],
    middle: Float[np.ndarray, "3"],
    settings: VerificationSettings,
) -> float:
    """The largest loss of consistency when all views are rotated about an axis."""
    observations, surface = trial.solver.observations, trial.solver.state.surface
    c2w = trial.solver.state.c2w()
    scores = []
    for part in range(1, ROTATIONS):
        motion = np.eye(4)
        motion[:3, :3] = Rotation.from_rotvec(2 * np.pi * part / ROTATIONS * axis).as_matrix()
        motion[:3, 3] = middle - motion[:3, :3] @ middle
        rotated = torch.as_tensor(motion, device=c2w.device) @ c2w
        consistency = normal_consistency(observations, surface, rotated, settings)
        scores.append(float(consistency.mean()))
    return trial.score - min(scores)


def inner_points(surface: SDF) -> Float[np.ndarray, "N 3"]:
    """Nodes of a coarse grid inside the object."""
    nodes = grid_nodes(COARSE_CELLS + 1, torch.device("cpu")).view(-1, 3)
    return nodes[surface(nodes) < 0].numpy()
