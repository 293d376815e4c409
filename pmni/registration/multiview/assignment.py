"""Moving single views to where they fit the others better."""

import numpy as np
from jaxtyping import Float

from pmni.registration.multiview.graph import PairGraph
from pmni.registration.multiview.joint import refine_view
from pmni.registration.multiview.objective import COARSE, FINE, evaluate, view_scores
from pmni.registration.multiview.pose_set import PoseSet, Sight

MARGIN = 0.02
"""By which a view must fit better elsewhere to move."""

_SEPARATION = 6.0  # degrees between the places that are tried for a view
_PLACES = 12  # places that are tried for a view
_REFINED = 2  # of these, the best are refined before they are compared ...
_WORTH_A_TRY = 0.2  # ... unless they fit by so much worse


def reassign(sight: Sight, graph: PairGraph, poses: PoseSet, refined: bool) -> tuple[PoseSet, int]:
    """Move one view after another to the place where it fits best (iterated conditional modes).

    The places are its own and those that the hypotheses give it with each of its partners. They
    are compared roughly and, if `refined`, the best ones again after the view is refined there.
    The worst view is the first to move. `sight` is unscaled. Returns the poses and how many views
    moved.
    """
    moved = 0
    worst_first = np.argsort(
        evaluate(sight, poses, FINE if refined else COARSE).views, kind="stable"
    )
    for view in worst_first.tolist():
        now = sight.scaled(poses.scales)
        R, t = places(graph, now.centres, poses, view)
        fits = view_scores(now, poses, view, R, t, COARSE)
        order = np.argsort(-fits[1:], kind="stable") + 1
        if refined:
            order = order[fits[order] > fits[0] - _WORTH_A_TRY][:_REFINED]
        if not len(order):
            continue
        tried = [_placed(poses, view, R[k], t[k]) for k in (0, *order)]
        fits = fits[[0, *order]]
        if refined:
            tried = [refine_view(sight, one, view) for one in tried]
            fits = np.array([_fit(sight, one, view) for one in tried])
        best = int(fits.argmax())
        if fits[best] > fits[0] + MARGIN:
            moved += 1
            poses = tried[best]
    return poses, moved


def _placed(
    poses: PoseSet, view: int, R: Float[np.ndarray, "3 3"], t: Float[np.ndarray, "3"]
) -> PoseSet:
    rotations, translations = poses.rotations.copy(), poses.translations.copy()
    rotations[view], translations[view] = R, t
    return PoseSet(rotations, translations, poses.scales)


def _fit(sight: Sight, poses: PoseSet, view: int) -> float:
    own = slice(view, view + 1)
    now = sight.scaled(poses.scales)
    scores = view_scores(now, poses, view, poses.rotations[own], poses.translations[own], FINE)
    return float(scores[0])


def places(
    graph: PairGraph, centres: Float[np.ndarray, "V 3"], poses: PoseSet, view: int
) -> tuple[Float[np.ndarray, "C 3 3"], Float[np.ndarray, "C 3"]]:
    """Poses of a view: its own, then what its partners' poses and hypotheses make of it.

    Of those within a few degrees the most confident one stands; the places that the most
    confidence votes for come first. `centres` are scaled; a hypothesis says where the view's
    centre lies in its partner's frame, at the partner's scale.
    """
    R, t, scores = [], [], []
    for edge in np.flatnonzero((graph.pairs == view).any(1)):
        i, j = graph.pairs[edge]
        there = np.isfinite(graph.scores[edge])
        onto, shift = graph.rotations[edge, there], graph.translations[edge, there]
        partner = j if view == i else i
        if view == j:  # of the partner's points in this view; now the other way
            onto = onto.swapaxes(-1, -2)
            shift = -(onto @ shift[..., None])[..., 0]
        centre = centres[view] / poses.scales[view]
        seen = ((onto @ centre) + shift) * poses.scales[partner]
        world = (seen - poses.translations[partner]) @ poses.rotations[partner]
        turn = onto.swapaxes(-1, -2) @ poses.rotations[partner]
        R.append(turn)
        t.append(centres[view] - (turn @ world[..., None])[..., 0])
        scores.append(graph.scores[edge, there])
    own_R, own_t = poses.rotations[view], poses.translations[view]
    if not R:
        return own_R[None], own_t[None]
    return _distinct(
        own_R, own_t, np.concatenate(R), np.concatenate(t), np.concatenate(scores).clip(0.02)
    )


def _distinct(
    own_R: Float[np.ndarray, "3 3"],
    own_t: Float[np.ndarray, "3"],
    R: Float[np.ndarray, "N 3 3"],
    t: Float[np.ndarray, "N 3"],
    scores: Float[np.ndarray, " N"],
) -> tuple[Float[np.ndarray, "C 3 3"], Float[np.ndarray, "C 3"]]:
    flat = R.reshape(-1, 9)
    close = (flat @ flat.T - 1) / 2 > np.cos(np.deg2rad(_SEPARATION))
    votes = close @ scores
    left = (flat @ own_R.reshape(9) - 1) / 2 < np.cos(np.deg2rad(_SEPARATION))
    chosen_R, chosen_t = [own_R], [own_t]
    while left.any() and len(chosen_R) <= _PLACES:
        members = close[int(np.where(left, votes, -1.0).argmax())] & left
        best = int(np.where(members, scores, -1.0).argmax())
        chosen_R.append(R[best])
        chosen_t.append(t[best])
        left &= ~members
    return np.stack(chosen_R), np.stack(chosen_t)
