"""Sides of an object that look alike: views of one that were taken for the other are moved.

Where two sides are alike, the views of both may have been laid onto one. No single view gains by
moving then, and no spanning tree through many mistaken pairs finds the way. Two things give it
away: what the pairs say against the poses is the same motion of the object many times, the one that
takes one side onto the other; and silhouettes and surfaces agree better within the two groups of
views than between them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from pmni.registration.multiview.assignment import reassign
from pmni.registration.multiview.graph import PairGraph
from pmni.registration.multiview.joint import refine_jointly
from pmni.registration.multiview.objective import CONFLICT_WEIGHT, FINE, evaluate, pair_parts
from pmni.registration.multiview.pose_set import PoseSet, Sight

MODES = 3
"""Motions that are tried."""
SAME = 15.0
"""Degrees within which two motions are the same; up to twice as much is none."""
CENTRES = 400
"""Hypotheses, the most confident ones, around which others are looked for."""
SUPPORT = 0.15
"""Of the confidence in the poses: so much more than chance must suggest a motion."""
SPLITS = 3
"""Divisions of the views, by silhouettes and by surface, that are tried with each motion."""
WORST = 4
"""Single views that are tried with each motion."""
ROUNDS = 4
"""Of moving views, at most."""
KEPT = 4
"""Pose sets that were tried and are kept besides the best."""


@dataclass(frozen=True)
class Motion:
    """X -> rotation X + translation, in the world of a pose set."""

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]


def disentangled(sight: Sight, graph: PairGraph, poses: PoseSet) -> list[PoseSet]:
    """The poses with groups of views moved onto another side of the object, refined.

    First those to which moving views leads as long as that explains them better, the given ones if
    it never does; then the best of those that were tried on the way: between sides that look alike
    a finer surface has to decide. `sight` is unscaled.
    """
    now = evaluate(sight, poses).total
    tried: list[tuple[float, PoseSet]] = []
    for _ in range(ROUNDS):
        moves = [(evaluate(sight, each).total, each) for each in _moves(sight, graph, poses)]
        tried += moves
        total, best = max(moves, key=lambda move: move[0], default=(now, poses))
        if total <= now:
            break
        poses, now = best, total
    tried = [move for move in tried if move[1] is not poses]
    tried.sort(key=lambda move: -move[0])
    return [poses, *(others for _, others in tried[:KEPT])]


def _moves(sight: Sight, graph: PairGraph, poses: PoseSet) -> Iterator[PoseSet]:
    """The poses after each motion of each group of views, and of the worst single ones."""
    now = sight.scaled(poses.scales)
    found = motions(graph, poses, now.centres)
    if not found:
        return
    order = np.argsort(evaluate(sight, poses).views, kind="stable")
    singles = np.eye(graph.views, dtype=bool)[order[:WORST]]
    for motion in found:
        for chosen in (*splits(now, poses), *singles):
            after = moved(poses, chosen, motion)
            if chosen.sum() > 1:  # some of a group may belong to the other
                after = reassign(sight, graph, after, False)[0]
            yield refine_jointly(sight, after)


def splits(now: Sight, poses: PoseSet) -> list[Bool[np.ndarray, " V"]]:
    """The smaller of two groups of views within which the views agree better than between them.

    The signs of the leading eigenvectors of how well the pairs agree, in silhouettes and in
    surface, less what is usual at the angle between them. `now` is scaled.
    """
    first, second = np.triu_indices(len(poses.rotations), 1)
    R, t = poses.relative(first, second)
    good, conflict, visible, missed, valid, *_ = pair_parts(now, first, second, R, t, FINE)
    cosine = poses.axes_cosines()[first, second]
    surface = (good - (0.7 + CONFLICT_WEIGHT) * conflict) / np.where(visible > 0, visible, 1)
    found: dict[bytes, Bool[np.ndarray, " V"]] = {}
    for agreement, known in ((-missed, valid > 0), (surface, visible > 0)):
        affinity = np.zeros((len(poses.rotations),) * 2)
        angle = np.vander(cosine[known], 3)
        usual = angle @ np.linalg.lstsq(angle, agreement[known], rcond=None)[0]
        affinity[first[known], second[known]] = agreement[known] - usual
        vectors = np.linalg.eigh(affinity + affinity.T)[1][:, ::-1].T
        for chosen in vectors[:SPLITS] > 0:
            smaller = chosen if 2 * chosen.sum() <= len(chosen) else ~chosen
            if smaller.any():
                found[smaller.tobytes()] = smaller
    return list(found.values())


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
    angle = (flat @ np.eye(3).reshape(9) - 1) / 2
    left = angle < np.cos(np.deg2rad(2 * SAME))
    least = SUPPORT * weight[angle > np.cos(np.deg2rad(SAME))].sum()
    found: list[np.ndarray] = []
    while left.any() and len(found) < MODES:
        around = flat[np.argsort(-weight * left, kind="stable")[:CENTRES]]
        close = ((flat @ around.T - 1) / 2 > np.cos(np.deg2rad(SAME))) & left[:, None]
        votes = weight @ close
        if votes.max() <= least:
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


def moved(poses: PoseSet, chosen: Bool[np.ndarray, " V"], motion: Motion) -> PoseSet:
    """With the chosen views' poses after the motion: what was at X they now see at M X."""
    rotations = np.where(chosen[:, None, None], poses.rotations @ motion.rotation, poses.rotations)
    shift = poses.rotations @ motion.translation
    translations = poses.translations + chosen[:, None] * shift
    return PoseSet(rotations, translations, poses.scales)
