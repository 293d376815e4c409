"""Global search of the pose of a view that no pair of views suggests."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from pmni.config.registration import VerificationSettings
from pmni.geometry.cameras import look_at
from pmni.refinement.outlier_views import best_pose
from pmni.registration.verification.trial import Trial, mask_centroids, normal_consistency


def global_pose_search(
    trial: Trial, view: int, inliers: Float[np.ndarray, "P 4 4"], settings: VerificationSettings
) -> Float[np.ndarray, "4 4"]:
    """The camera-to-world pose that explains a view best, among those that Gauss-Newton steps lead
    to from the directions in which the inlier views see the object."""
    observations, surface = trial.solver.observations, trial.solver.state.surface
    poses = _start_poses(trial, view, inliers, settings.search_rolls)
    starts = torch.as_tensor(poses, device=observations.device)
    score = normal_consistency(observations, surface, starts, settings, view)
    leading = starts[score.topk(min(settings.search_starts, len(starts))).indices]
    return best_pose(trial.solver, view, leading)[0].cpu().numpy()


def _start_poses(
    trial: Trial, view: int, inliers: Float[np.ndarray, "P 4 4"], rolls: int
) -> Float[np.ndarray, "K 4 4"]:
    """Poses of a view in the inliers' directions, at its own distance, with its mask's centroid at
    the object's centre, at several rolls."""
    distance = float(np.linalg.norm(trial.c2w[view, :3, 3]))
    centroid = mask_centroids(trial.solver.observations)[view]
    to_axis, _ = Rotation.align_vectors([[0.0, 0.0, 1.0]], [centroid])
    poses = []
    for centre in inliers[:, :3, 3]:
        position = distance * centre / np.linalg.norm(centre)
        across = np.eye(3)[np.abs(centre).argmin()]
        for roll in np.arange(rolls) * (2 * np.pi / rolls):
            pose = look_at(position, np.zeros(3), tuple(across), roll)
            pose[:3, :3] = pose[:3, :3] @ to_axis.as_matrix()
            poses.append(pose)
    return np.stack(poses)
