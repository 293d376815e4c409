"""View ambiguity: views of one side of an object that were registered onto a similar side.

Where two sides look alike, the views of both may have been registered onto one. No single view
gains by moving then, and no spanning tree through many wrong pairs helps. Two observations reveal
it: many pairwise hypotheses that contradict the poses imply the same rigid transform of the object,
the one that maps one side onto the other; and silhouettes and surfaces agree better within the two
groups of views than between them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from pmni.config.registration import AmbiguitySettings
from pmni.geometry.rays import nearest_point
from pmni.registration.multiview.graph import PairGraph
from pmni.registration.multiview.joint_alignment import align_jointly
from pmni.registration.multiview.objective import evaluate_poses, pair_parts
from pmni.registration.multiview.pose_set import PairingContext, PoseSet
from pmni.registration.multiview.reassignment import reassign_views


@dataclass(frozen=True)
class SymmetryTransform:
    """X -> rotation X + translation, in the world of a pose set."""

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]


def resolve_ambiguity(context: PairingContext, graph: PairGraph, poses: PoseSet) -> list[PoseSet]:
    """Pose sets with groups of views moved onto another side of the object, aligned.

    The first results from moving views as long as that increases the objective (the given poses if
    it never does); the others are the best of those that were tried: between similar sides a finer
    surface has to decide. `context` is unscaled.
    """
    settings = context.settings.multiview.ambiguity
    objective = evaluate_poses(context, poses).total
    tried: list[tuple[float, PoseSet]] = []
    for _ in range(settings.rounds):
        moves = [
            (evaluate_poses(context, moved).total, moved)
            for moved in _moved_groups(context, graph, poses)
        ]
        tried += moves
        total, best = max(moves, key=lambda move: move[0], default=(objective, poses))
        if total <= objective:
            break
        poses, objective = best, total
    tried = [move for move in tried if move[1] is not poses]
    tried.sort(key=lambda move: -move[0])
    return [poses, *(others for _, others in tried[: settings.kept])]


def _moved_groups(context: PairingContext, graph: PairGraph, poses: PoseSet) -> Iterator[PoseSet]:
    """Pose sets after each symmetry transform of each group of views, and of the worst views."""
    settings = context.settings.multiview.ambiguity
    scaled = context.scaled(poses.scales)
    transforms = symmetry_transforms(graph, poses, scaled.centres, settings)
    if not transforms:
        return
    order = np.argsort(evaluate_poses(context, poses).views, kind="stable")
    singles = np.eye(graph.views, dtype=bool)[order[: settings.single_views]]
    for transform in transforms:
        for group in (*view_groups(scaled, poses), *singles):
            moved = transform_views(poses, group, transform)
            if group.sum() > 1:  # single views of a group may belong to the other
                moved = reassign_views(context, graph, moved, False)[0]
            yield align_jointly(context, moved)


def view_groups(scaled: PairingContext, poses: PoseSet) -> list[Bool[np.ndarray, " V"]]:
    """The smaller of two groups of views that agree better within than between the groups.

    The groups are the signs of leading eigenvectors of the pairs' agreement, in silhouettes and in
    surfaces, relative to what is usual at the angle between the views.
    """
    settings = scaled.settings.multiview
    tolerance = settings.objective.fine_tolerance
    first, second = np.triu_indices(len(poses.rotations), 1)
    R, t = poses.relative(first, second)
    good, conflict, visible, gap, valid, *_ = pair_parts(scaled, first, second, R, t, tolerance)
    cosine = poses.axes_cosines()[first, second]
    weight = 0.7 + settings.objective.conflict_weight
    surface = (good - weight * conflict) / np.where(visible > 0, visible, 1)
    groups: dict[bytes, Bool[np.ndarray, " V"]] = {}
    for agreement, known in ((-gap, valid > 0), (surface, visible > 0)):
        affinity = np.zeros((len(poses.rotations),) * 2)
        angle = np.vander(cosine[known], 3)
        usual = angle @ np.linalg.lstsq(angle, agreement[known], rcond=None)[0]
        affinity[first[known], second[known]] = agreement[known] - usual
        vectors = np.linalg.eigh(affinity + affinity.T)[1][:, ::-1].T
        for group in vectors[: settings.ambiguity.splits] > 0:
            smaller = group if 2 * group.sum() <= len(group) else ~group
            if smaller.any():
                groups[smaller.tobytes()] = smaller
    return list(groups.values())


def symmetry_transforms(
    graph: PairGraph,
    poses: PoseSet,
    centres: Float[np.ndarray, "V 3"],
    settings: AmbiguitySettings,
) -> list[SymmetryTransform]:
    """Transforms implied by many hypotheses that contradict the poses, most confident first.

    A transform rotates about the point nearest to the rays through the `centres` (scaled), the
    middle of the object: depths and translations are too uncertain to tell.
    """
    middle = _object_centre(poses, centres)
    rotations = symmetry_rotations(graph, poses.rotations, settings)
    return [SymmetryTransform(R, middle - R @ middle) for R in rotations]


def symmetry_rotations(
    graph: PairGraph, rotations: Float[np.ndarray, "V 3 3"], settings: AmbiguitySettings
) -> list[Float[np.ndarray, "3 3"]]:
    """Rotations of the world by which many hypotheses differ from world-to-camera rotations."""
    edge, rank = np.nonzero(np.isfinite(graph.scores))
    i, j = graph.pairs[edge].T
    Q = rotations[j].swapaxes(-1, -2) @ graph.rotations[edge, rank] @ rotations[i]
    weight = np.tile(graph.scores[edge, rank].clip(0), 2)
    flat = np.concatenate([Q, Q.swapaxes(-1, -2)]).reshape(-1, 9)
    cosine = (flat @ np.eye(3).reshape(9) - 1) / 2
    same, different = (np.cos(np.deg2rad(k * settings.same_deg)) for k in (1, 2))
    left = cosine < different
    least = settings.min_support * weight[cosine > same].sum()
    modes: list[np.ndarray] = []
    while left.any() and len(modes) < settings.symmetries:
        seeds = flat[np.argsort(-weight * left, kind="stable")[: settings.centres]]
        close = ((flat @ seeds.T - 1) / 2 > same) & left[:, None]
        votes = weight @ close
        if votes.max() <= least:
            break
        members = close[:, int(votes.argmax())] & (weight > 0)
        mean = Rotation.from_matrix(flat[members].reshape(-1, 3, 3)).mean(weight[members])
        modes.append(mean.as_matrix())
        for mode in (modes[-1], modes[-1].T):
            left &= (flat @ mode.reshape(9) - 1) / 2 < different
    return modes


def _object_centre(poses: PoseSet, centres: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "3"]:
    """The point of the world nearest to the rays through the centres."""
    back = poses.rotations.swapaxes(-1, -2)
    directions = (back @ centres[..., None])[..., 0]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return nearest_point(-(back @ poses.translations[..., None])[..., 0], directions)


def transform_views(
    poses: PoseSet, group: Bool[np.ndarray, " V"], transform: SymmetryTransform
) -> PoseSet:
    """The poses with a group of views that see at M X what they saw at X before."""
    turned = poses.rotations @ transform.rotation
    rotations = np.where(group[:, None, None], turned, poses.rotations)
    shift = poses.rotations @ transform.translation
    translations = poses.translations + group[:, None] * shift
    return PoseSet(rotations, translations, poses.scales)
