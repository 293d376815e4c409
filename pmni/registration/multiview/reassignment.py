"""Moving single views to better poses, one after another (iterated conditional modes)."""

import numpy as np
from jaxtyping import Float

from pmni.config.registration import ReassignmentSettings
from pmni.registration.multiview.averaging import MIN_SCORE
from pmni.registration.multiview.graph import PairGraph
from pmni.registration.multiview.joint_alignment import align_view
from pmni.registration.multiview.objective import evaluate_poses, view_scores
from pmni.registration.multiview.pose_set import PairingContext, PoseSet


def reassign_views(
    context: PairingContext, graph: PairGraph, poses: PoseSet, aligned: bool
) -> tuple[PoseSet, int]:
    """Move one view after another to the pose that explains it best, the worst view first.

    The pose candidates of a view are its own and those that its pairwise hypotheses give it with
    each partner. They are ranked coarsely and, if `aligned`, the best ones again after the view is
    aligned there. `context` is unscaled. Returns the poses and the number of views that moved.
    """
    settings = context.settings.multiview.reassignment
    objective = context.settings.multiview.objective
    tolerance = objective.fine_tolerance if aligned else objective.coarse_tolerance
    moved = 0
    worst_first = np.argsort(evaluate_poses(context, poses, tolerance).views, kind="stable")
    for view in worst_first.tolist():
        scaled = context.scaled(poses.scales)
        R, t = pose_candidates(scaled, graph, poses, view)
        scores = view_scores(scaled, poses, view, R, t, objective.coarse_tolerance)
        order = np.argsort(-scores[1:], kind="stable") + 1
        if aligned:
            order = order[scores[order] > scores[0] - settings.max_deficit][: settings.refined]
        if not len(order):
            continue
        pose_sets = [_with_pose(poses, view, R[k], t[k]) for k in (0, *order)]
        scores = scores[[0, *order]]
        if aligned:
            pose_sets = [align_view(context, pose_set, view) for pose_set in pose_sets]
            scores = np.array([_view_score(context, pose_set, view) for pose_set in pose_sets])
        best = int(scores.argmax())
        if scores[best] > scores[0] + settings.min_gain:
            moved += 1
            poses = pose_sets[best]
    return poses, moved


def _with_pose(
    poses: PoseSet, view: int, R: Float[np.ndarray, "3 3"], t: Float[np.ndarray, "3"]
) -> PoseSet:
    """The pose set with another pose of one view."""
    rotations, translations = poses.rotations.copy(), poses.translations.copy()
    rotations[view], translations[view] = R, t
    return PoseSet(rotations, translations, poses.scales)


def _view_score(context: PairingContext, poses: PoseSet, view: int) -> float:
    """The objective of one view at its own pose, after alignment."""
    own = slice(view, view + 1)
    scaled = context.scaled(poses.scales)
    tolerance = context.settings.multiview.objective.fine_tolerance
    R, t = poses.rotations[own], poses.translations[own]
    return float(view_scores(scaled, poses, view, R, t, tolerance)[0])


def pose_candidates(
    scaled: PairingContext, graph: PairGraph, poses: PoseSet, view: int
) -> tuple[Float[np.ndarray, "C 3 3"], Float[np.ndarray, "C 3"]]:
    """Poses of a view: its own, then those implied by its partners' poses and hypotheses.

    Clusters of candidates are ordered by the sum of their scores, and each is represented by its
    best-scored member. A hypothesis maps the view's centre into its partner's frame, at the
    partner's scale.
    """
    R, t, scores = [], [], []
    for edge in np.flatnonzero((graph.pairs == view).any(1)):
        i, j = graph.pairs[edge]
        exists = np.isfinite(graph.scores[edge])
        relative, shift = graph.rotations[edge, exists], graph.translations[edge, exists]
        partner = j if view == i else i
        if view == j:  # invert: from this view to its partner
            relative = relative.swapaxes(-1, -2)
            shift = -(relative @ shift[..., None])[..., 0]
        centre = scaled.centres[view] / poses.scales[view]
        in_partner = ((relative @ centre) + shift) * poses.scales[partner]
        world = (in_partner - poses.translations[partner]) @ poses.rotations[partner]
        rotation = relative.swapaxes(-1, -2) @ poses.rotations[partner]
        R.append(rotation)
        t.append(scaled.centres[view] - (rotation @ world[..., None])[..., 0])
        scores.append(graph.scores[edge, exists])
    own_R, own_t = poses.rotations[view], poses.translations[view]
    if not R:
        return own_R[None], own_t[None]
    weights = np.concatenate(scores).clip(MIN_SCORE)
    settings = scaled.settings.multiview.reassignment
    kept = _cluster_heads(np.concatenate(R), weights, own_R, settings)
    return (
        np.concatenate([own_R[None], np.concatenate(R)[kept]]),
        np.concatenate([own_t[None], np.concatenate(t)[kept]]),
    )


def _cluster_heads(
    R: Float[np.ndarray, "N 3 3"],
    scores: Float[np.ndarray, " N"],
    own_R: Float[np.ndarray, "3 3"],
    settings: ReassignmentSettings,
) -> list[int]:
    """Indices of the best-scored rotations of clusters that are far from the view's own."""
    flat = R.reshape(-1, 9)
    close = (flat @ flat.T - 1) / 2 > np.cos(np.deg2rad(settings.separation_deg))
    votes = close @ scores
    left = (flat @ own_R.reshape(9) - 1) / 2 < np.cos(np.deg2rad(settings.separation_deg))
    heads: list[int] = []
    while left.any() and len(heads) < settings.candidates:
        members = close[int(np.where(left, votes, -1.0).argmax())] & left
        heads.append(int(np.where(members, scores, -1.0).argmax()))
        left &= ~members
    return heads
