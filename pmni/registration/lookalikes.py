"""Sides of an object that look alike: views of one that were taken for the other are moved.

Where two sides are alike, the views of both may have been laid onto one. No single view gains by
moving then, and no spanning tree through many mistaken pairs finds the way. Two things give it
away: what the pairs say against the poses is the same motion of the object many times, the one that
takes one side onto the other; and silhouettes meet better within the two groups of views than
between them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from pmni.registration.assignment import reassign
from pmni.registration.graph import PairGraph
from pmni.registration.joint import refine_jointly
from pmni.registration.objective import FINE, evaluate
from pmni.registration.pose_set import PoseSet, Sight
from pmni.registration.silhouettes import tangency

MODES = 3
"""Motions that are tried."""
SAME = 15.0
"""Degrees within which two motions are the same; up to twice as much is none."""
CENTRES = 400
"""Hypotheses, the most confident ones, around which others are looked for."""
SUPPORT = 0.5
"""Confident pairs a view that must suggest a motion."""
SPLITS = 2
"""Divisions of the views that are tried with each motion."""
WORST = 4
"""Single views that are tried with each motion."""
ROUNDS = 6
"""Of moving views, at most."""


@dataclass(frozen=True)
class Motion:
    """X -> rotation X + translation, in the world of a pose set."""

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]


def disentangled(sight: Sight, graph: PairGraph, poses: PoseSet) -> PoseSet:
    """The refined poses with groups of views moved onto another side of the object as long as that
    explains the views better. `sight` is unscaled."""
    now = evaluate(sight, poses)
    for _ in range(ROUNDS):
        best, found = poses, now
        seen = sight.scaled(poses.scales)
        for motion in motions(graph, poses, seen.centres):
            singles = np.eye(graph.views, dtype=bool)[np.argsort(now.views, kind="stable")[:WORST]]
            for chosen in (*splits(seen, poses), *singles):
                tried = moved(poses, chosen, motion)
                if chosen.sum() > 1:  # some of a group may belong to the other
                    tried = reassign(sight, graph, tried, False)[0]
                tried = refine_jointly(sight, tried)
                objective = evaluate(sight, tried)
                if objective.total > found.total:
                    best, found = tried, objective
        if best is poses:
            break
        poses, now = best, found
    return poses


def splits(now: Sight, poses: PoseSet) -> list[Bool[np.ndarray, "V"]]:
    """The smaller of the two groups within which silhouettes meet better than between them.

    The signs of the leading eigenvectors of how well the pairs meet, less the mean. `now` is
    scaled.
    """
    first, second = np.triu_indices(len(poses.rotations), 1)
    R, t = poses.relative(first, second)
    met = tangency(now.hulls, now.centres, now.views.radius, first, second, R, t)
    missed = np.minimum(np.abs(met.residuals) / FINE, 1).mean(1)
    valid = met.valid
    if not valid.any():
        return []
    affinity = np.zeros((len(poses.rotations),) * 2)
    affinity[first, second] = valid * (missed[valid].mean() - missed)
    vectors = np.linalg.eigh(affinity + affinity.T)[1][:, ::-1].T[:SPLITS]
    return [chosen if 2 * chosen.sum() <= len(chosen) else ~chosen for chosen in vectors > 0]


def motions(graph: PairGraph, poses: PoseSet, centres: Float[np.ndarray, "V 3"]) -> list[Motion]:
    """What many hypotheses say against the poses, most confident first.

    A motion turns about the point that is nearest to the rays through the `centres` (scaled), the
    middle of the object: depths and translations are too uncertain to say it.
    """
    middle = _middle(poses, centres)
    return [Motion(turn, middle - turn @ middle) for turn in turns(graph, poses.rotations)]


def turns(
    graph: PairGraph, rotations: Float[np.ndarray, "V 3 3"]
) -> list[Float[np.ndarray, "3 3"]]:
    """Rotations of the world by which many hypotheses differ from world-to-camera rotations."""
    edge, place = np.nonzero(np.isfinite(graph.scores))
    i, j = graph.pairs[edge].T
    Q = rotations[j].swapaxes(-1, -2) @ graph.rotations[edge, place] @ rotations[i]
    weight = np.tile(graph.scores[edge, place].clip(0), 2)
    flat = np.concatenate([Q, Q.swapaxes(-1, -2)]).reshape(-1, 9)
    left = (flat @ np.eye(3).reshape(9) - 1) / 2 < np.cos(np.deg2rad(2 * SAME))
    found: list[np.ndarray] = []
    while left.any() and len(found) < MODES:
        around = flat[np.argsort(-weight * left, kind="stable")[:CENTRES]]
        close = ((flat @ around.T - 1) / 2 > np.cos(np.deg2rad(SAME))) & left[:, None]
        votes = weight @ close
        if votes.max() < SUPPORT * graph.views:
            break
        members = close[:, int(votes.argmax())] & (weight > 0)
        mean = Rotation.from_matrix(flat[members].reshape(-1, 3, 3)).mean(weight[members])
        found.append(mean.as_matrix())
        for known in (found[-1], found[-1].T):
            left &= (flat @ known.reshape(9) - 1) / 2 < np.cos(np.deg2rad(2 * SAME))
    return found


def _middle(poses: PoseSet, centres: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "3"]:
    """The point of the world that is nearest to the rays through the centres."""
    back = poses.rotations.swapaxes(-1, -2)
    d = (back @ centres[..., None])[..., 0]
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    origins = -(back @ poses.translations[..., None])[..., 0]
    across = np.eye(3) - d[:, :, None] * d[:, None, :]
    return np.linalg.solve(across.sum(0), (across @ origins[..., None]).sum(0)[:, 0])


def moved(poses: PoseSet, chosen: Bool[np.ndarray, "V"], motion: Motion) -> PoseSet:
    """With the chosen views' poses after the motion: what was at X they now see at M X."""
    rotations = np.where(chosen[:, None, None], poses.rotations @ motion.rotation, poses.rotations)
    shift = poses.rotations @ motion.translation
    translations = poses.translations + chosen[:, None] * shift
    return PoseSet(rotations, translations, poses.scales)
