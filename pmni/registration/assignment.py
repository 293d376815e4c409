"""How well a set of poses explains all views, and moving single views to where they fit better."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation

from pmni.registration.graph import PairGraph
from pmni.registration.scoring import Agreement, agreement
from pmni.registration.views import Views

NEAR = float(np.cos(np.deg2rad(75.0)))
"""Viewing axes closer than this see the same surface; others can only contradict each other."""

FAR_WEIGHT = 0.5
"""Of the mean violation of masks and free space between views that are not near."""

TOLERANCE, ANGLE = 0.0625, float(np.deg2rad(18.0))
"""Of depths (object radii) and normals (radians)."""

POINTS = 200
"""Surface points of each view that are compared."""

FEW = 24
"""Up to so many views all pairs are compared; beyond, those of `partners`."""

_NEAREST, _OTHERS = 14, 6  # partners of a view among many
_SEPARATION = 6.0  # degrees between the places that are tried for a view
_PLACES = 12  # places that are tried for a view
_LEAST_VISIBLE = 0.3  # added to the sum of a view's visible shares: few partners prove little


@dataclass(frozen=True)
class Objective:
    """How well each of B pose sets explains the views."""

    total: Float[np.ndarray, "B"]
    """`near` less FAR_WEIGHT times `far`: what pose sets are ranked by."""
    near: Float[np.ndarray, "B"]
    """Evidence in a unit of visible surface over all pairs of near views; at most 1."""
    far: Float[np.ndarray, "B"]
    """Mean violation of masks and free space over all other pairs."""
    views: Float[np.ndarray, "B V"]
    """Each view's own total."""


def evaluate(
    views: Views, rotations: Float[np.ndarray, "B V 3 3"], translations: Float[np.ndarray, "B V 3"]
) -> Objective:
    """The objective of pose sets x_i = R_i X + t_i."""
    sets, count = rotations.shape[:2]
    axes = rotations[:, :, 2]
    cosines = np.einsum("bik,bjk->bij", axes, axes)
    used = np.stack([_mutual(partners(cosine)) for cosine in cosines])
    b, i, j = np.nonzero(np.triu(used))
    R = rotations[b, j] @ rotations[b, i].swapaxes(-1, -2)
    t = translations[b, j] - (R @ translations[b, i, :, None])[..., 0]
    found = compare(views, i, j, R, t)
    near = cosines[b, i, j] > NEAR
    sums = np.zeros((4, sets, count, count))
    sums[:, b, i, j] = [
        near * _array(found.evidence()),
        near * _array(found.visible),
        ~near * _array(found.violation()),
        ~near,
    ]
    sums += sums.swapaxes(-1, -2)
    of_view = sums.sum(-1)
    of_set = of_view.sum(-1) / 2
    closeness = of_set[0] / of_set[1].clip(0.1)
    far = of_set[2] / of_set[3].clip(1)
    return Objective(closeness - FAR_WEIGHT * far, closeness, far, _total(of_view))


def reassign(
    views: Views,
    graph: PairGraph,
    rotations: Float[np.ndarray, "V 3 3"],
    translations: Float[np.ndarray, "V 3"],
    margin: float = 0.02,
) -> tuple[Float[np.ndarray, "V 3 3"], Float[np.ndarray, "V 3"], int]:
    """Move one view after another to the place where it fits best (iterated conditional modes).

    The places are those that the hypotheses give it with each of its partners; it must fit by
    `margin` better there. The worst view is the first to move. Returns the poses and how many
    views moved.
    """
    rotations, translations = rotations.copy(), translations.copy()
    scores = evaluate(views, rotations[None], translations[None]).views[0]
    moved = 0
    for view in np.argsort(scores, kind="stable").tolist():
        R, t = places(graph, rotations, translations, view)
        if len(R) == 1:
            continue
        fits = view_scores(views, rotations, translations, view, R, t)
        best = int(fits.argmax())
        if fits[best] > fits[0] + margin:
            rotations[view], translations[view] = R[best], t[best]
            moved += 1
    return rotations, translations, moved


def places(
    graph: PairGraph,
    rotations: Float[np.ndarray, "V 3 3"],
    translations: Float[np.ndarray, "V 3"],
    view: int,
) -> tuple[Float[np.ndarray, "C 3 3"], Float[np.ndarray, "C 3"]]:
    """Poses of a view: its own, then what its partners' poses and hypotheses make of it.

    Of those within a few degrees the most confident one stands; the places that the most
    confidence votes for come first.
    """
    R, t, scores = [], [], []
    for edge in np.flatnonzero((graph.pairs == view).any(1)):
        i, j = graph.pairs[edge]
        there = np.isfinite(graph.scores[edge])
        relative, shift = graph.rotations[edge, there], graph.translations[edge, there]
        if view == i:
            relative = relative.swapaxes(-1, -2)
            shift = -(relative @ shift[..., None])[..., 0]
        partner = j if view == i else i
        R.append(relative @ rotations[partner])
        t.append(relative @ translations[partner] + shift)
        scores.append(graph.scores[edge, there])
    if not R:
        return rotations[view][None], translations[view][None]
    return _distinct(
        rotations[view], translations[view], np.concatenate(R), np.concatenate(t),
        np.concatenate(scores).clip(0.02),
    )  # fmt: skip


def _distinct(
    own_R: Float[np.ndarray, "3 3"],
    own_t: Float[np.ndarray, "3"],
    R: Float[np.ndarray, "N 3 3"],
    t: Float[np.ndarray, "N 3"],
    scores: Float[np.ndarray, "N"],
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


def view_scores(
    views: Views,
    rotations: Float[np.ndarray, "V 3 3"],
    translations: Float[np.ndarray, "V 3"],
    view: int,
    R: Float[np.ndarray, "C 3 3"],
    t: Float[np.ndarray, "C 3"],
) -> Float[np.ndarray, "C"]:
    """The total of one view for each of several poses, against all other views as they are."""
    cosines = R[:, 2] @ rotations[:, 2].T
    cosines[:, view] = -np.inf
    used = partners(cosines)
    used[:, view] = False
    place, other = np.nonzero(used)
    relative = rotations[other] @ R[place].swapaxes(-1, -2)
    shift = translations[other] - (relative @ t[place, :, None])[..., 0]
    found = compare(views, np.full(len(other), view), other, relative, shift)
    near = cosines[place, other] > NEAR
    sums = np.zeros((4, *used.shape))
    sums[:, place, other] = [
        near * _array(found.evidence()),
        near * _array(found.visible),
        ~near * _array(found.violation()),
        ~near,
    ]
    return _total(sums.sum(-1))


def _total(sums: Float[np.ndarray, "4 *n"]) -> Float[np.ndarray, "*n"]:
    evidence, visible, violation, far = sums
    return evidence / (visible + _LEAST_VISIBLE) - FAR_WEIGHT * violation / far.clip(1)


def partners(cosines: Float[np.ndarray, "N V"]) -> Bool[np.ndarray, "N V"]:
    """With which views each of N is compared, given the cosines between their axes.

    All if they are few; else the nearest ones, and of the rest, in the order of their angle, some
    at equal steps: the work then grows with the number of views, not with its square.
    """
    count = cosines.shape[1]
    if count <= FEW:
        return np.ones(cosines.shape, bool)
    order = np.argsort(-cosines, axis=1, kind="stable")
    rest = np.linspace(_NEAREST + 1, count - 2, _OTHERS).astype(int)
    taken = np.concatenate([order[:, : _NEAREST + 1], order[:, rest]], 1)
    used = np.zeros(cosines.shape, bool)
    np.put_along_axis(used, taken, True, 1)
    return used


def compare(
    views: Views,
    source: Int[np.ndarray, "K"],
    target: Int[np.ndarray, "K"],
    R: Float[np.ndarray, "K 3 3"],
    t: Float[np.ndarray, "K 3"],
    points: int = POINTS,
) -> Agreement:
    """`agreement` of relative poses that are NumPy arrays, at this file's tolerances."""
    device = views.device
    return agreement(
        views,
        torch.from_numpy(source).to(device),
        torch.from_numpy(target).to(device),
        torch.from_numpy(R).float().to(device),
        torch.from_numpy(t).float().to(device),
        TOLERANCE,
        ANGLE,
        points,
    )


def differences_deg(
    first: Float[np.ndarray, "V 3 3"], second: Float[np.ndarray, "V 3 3"]
) -> Float[np.ndarray, "V"]:
    """By how much each view differs between two sets of world-to-camera rotations, in degrees.

    The world of the first is turned onto the second's such that half of the views differ least,
    as well as the turn of one of them can do it.
    """
    turns = first.swapaxes(-1, -2) @ second  # first @ turn = second
    error = Rotation.from_matrix(
        (first[None] @ turns[:, None]).reshape(-1, 3, 3).swapaxes(-1, -2)
        @ np.tile(second, (len(first), 1, 1))
    ).magnitude().reshape(len(first), len(first))  # fmt: skip
    return np.rad2deg(error[np.median(error, axis=1).argmin()])


def _mutual(used: Bool[np.ndarray, "V V"]) -> Bool[np.ndarray, "V V"]:
    both = used | used.T
    np.fill_diagonal(both, False)
    return both


def _array(values: torch.Tensor) -> Float[np.ndarray, "K"]:
    return values.double().cpu().numpy()
