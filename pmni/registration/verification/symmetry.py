"""Whether an object that views show looks the same from all sides of an axis."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from pmni.registration.verification.trial import COARSEST, Trial, explained
from pmni.sdf.grid import grid_nodes
from pmni.sdf.sdf import SDF

TURNS = 4
"""Parts of a full turn about an axis that are tried for the object's symmetry."""
SYMMETRY_LOSS, NEARLY_SYMMETRIC = 0.04, 0.25
"""If turning the views about an axis by any angle loses less than the first, the axis is one of
revolution; if less than the second, it may not have been met exactly."""


def symmetry_loss(trial: Trial) -> float:
    """The least, over axes, of the most that is lost when the views are turned about the axis.

    Tried are the object's principal axes; if one comes near to an axis of revolution, those
    around it too.
    """
    points = surface_points(trial.solver.state.surface)
    middle = points.mean(0)
    _, principal = np.linalg.eigh(np.cov((points - middle).T))
    losses = [_turning_loss(trial, axis, middle) for axis in principal.T]
    best = int(np.argmin(losses))
    if not SYMMETRY_LOSS < losses[best] < NEARLY_SYMMETRIC:
        return losses[best]
    axis, across = principal[:, best], np.delete(principal, best, axis=1)

    def loss(x: Float[np.ndarray, "4"]) -> float:
        tilted = axis + across @ x[:2]
        return _turning_loss(trial, tilted / np.linalg.norm(tilted), middle + across @ x[2:])

    simplex = 0.04 * np.vstack([np.zeros(4), np.eye(4)])
    options = {"maxfev": 40, "initial_simplex": simplex}
    return float(minimize(loss, np.zeros(4), method="Nelder-Mead", options=options).fun)


def _turning_loss(
    trial: Trial, axis: Float[np.ndarray, "3"], middle: Float[np.ndarray, "3"]
) -> float:
    """The most that is lost when all views are turned about an axis."""
    surface, c2w = trial.solver.state.surface, trial.solver.state.c2w()
    kept = []
    for turn in range(1, TURNS):
        motion = np.eye(4)
        motion[:3, :3] = Rotation.from_rotvec(2 * np.pi * turn / TURNS * axis).as_matrix()
        motion[:3, 3] = middle - motion[:3, :3] @ middle
        turned = torch.as_tensor(motion, device=c2w.device) @ c2w
        kept.append(float(explained(trial.solver.observations, surface, turned).mean()))
    return trial.score - min(kept)


def surface_points(surface: SDF) -> Float[np.ndarray, "N 3"]:
    """Nodes of a coarse grid inside the object."""
    nodes = grid_nodes(COARSEST + 1, torch.device("cpu")).view(-1, 3)
    return nodes[surface(nodes) < 0].numpy()
