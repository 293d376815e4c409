"""Poses of all views as the search handles them: world to camera, with the scale of each depth."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation

from pmni.registration.pairwise.silhouettes import hull_rays
from pmni.registration.pairwise.supports import Supports, search_grid, view_supports
from pmni.registration.views import Views

FEW = 24
"""Up to so many views all pairs are compared; beyond, those of `partners`."""

_NEAREST, _OTHERS = 14, 6  # partners of a view among many
_FAR_OFF = 5.0  # degrees: scale of the robust alignment of two pose sets


@dataclass(frozen=True)
class PoseSet:
    """World-to-camera poses x_i = R_i X + t_i of all views, and the scales of their depths."""

    rotations: Float[np.ndarray, "V 3 3"]
    translations: Float[np.ndarray, "V 3"]
    scales: Float[np.ndarray, " V"]
    """What each view's depths (`Views.depth`, points, centre) are to be multiplied by."""

    def relative(
        self, first: Int[np.ndarray, " K"], second: Int[np.ndarray, " K"]
    ) -> tuple[Float[np.ndarray, "K 3 3"], Float[np.ndarray, "K 3"]]:
        """x_second = R x_first + t."""
        R = self.rotations[second] @ self.rotations[first].swapaxes(-1, -2)
        t = self.translations[second] - (R @ self.translations[first, :, None])[..., 0]
        return R, t

    def axes_cosines(self) -> Float[np.ndarray, "V V"]:
        """Cosines between the viewing axes."""
        axes = self.rotations[:, 2]
        return axes @ axes.T


@dataclass(frozen=True)
class Sight:
    """All that is seen: the views with their depths at given scales, and their silhouettes."""

    views: Views
    hulls: Float[np.ndarray, "V N 3"]
    """See `hull_rays`; they do not depend on the scales."""
    centres: Float[np.ndarray, "V 3"]
    """`Views.centres` in double precision."""

    @cached_property
    def supports(self) -> Supports:
        """The views' partial support functions."""
        return view_supports(self.views, search_grid(self.views.device))

    def scaled(self, scales: Float[np.ndarray, " V"]) -> "Sight":
        """With each view's depths multiplied by its scale."""
        views = self.views
        factor = torch.from_numpy(scales).to(views.depth)
        stretched = replace(
            views,
            depth=views.depth * factor[:, None, None],
            points=views.points * factor[:, None, None],
            centres=views.centres * factor[:, None],
        )
        # faster than putting the maps together again; a cached property finds them there
        stretch = torch.ones(len(views), 1, 5).to(views.depth)
        stretch[:, 0, 3] = factor
        maps = views.maps.view(len(views), -1, 5) * stretch
        stretched.__dict__["maps"] = maps.view(-1, 5)
        return Sight(stretched, self.hulls, self.centres * scales[:, None])


def make_sight(views: Views) -> Sight:
    """With the depths as they are."""
    return Sight(views, hull_rays(views), views.centres.double().cpu().numpy())


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


def mutual(used: Bool[np.ndarray, "V V"]) -> Bool[np.ndarray, "V V"]:
    """Pairs of which either view has the other as a partner, without the diagonal."""
    both = used | used.T
    np.fill_diagonal(both, False)
    return both


def differences_deg(
    first: Float[np.ndarray, "V 3 3"], second: Float[np.ndarray, "V 3 3"]
) -> Float[np.ndarray, " V"]:
    """By how much each view differs between two sets of world-to-camera rotations, in degrees.

    The world of the first is turned onto the second's: as one of the views has it, such that the
    median difference is least, and then as all views have it, those far off counting little.
    """
    turns = first.swapaxes(-1, -2) @ second  # first @ turn = second
    # trace(second^T first turn) for every view (row) under every view's turn (column)
    traces = turns.reshape(-1, 9) @ turns.reshape(-1, 9).T
    start = np.median(traces, axis=0).argmax()
    turn = turns[start]
    for _ in range(5):
        error = Rotation.from_matrix(second.swapaxes(-1, -2) @ first @ turn).magnitude()
        weight = 1 / (1 + (np.rad2deg(error) / _FAR_OFF) ** 2) ** 2
        u, _, vt = np.linalg.svd((weight[:, None, None] * turns).sum(0))
        turn = (u * [1, 1, np.linalg.det(u @ vt)]) @ vt
    return np.rad2deg(Rotation.from_matrix(second.swapaxes(-1, -2) @ first @ turn).magnitude())


def distinct(rotations: Float[np.ndarray, "B V 3 3"], degrees: float) -> list[int]:
    """Which of B sets of world-to-camera rotations differ from all such sets before them.

    By more than so many degrees in some view, when the world is turned as one of the views has it
    (the one for which the median difference is least).
    """
    least = 1 + 2 * np.cos(np.deg2rad(degrees))
    kept: list[int] = []
    for index, own in enumerate(rotations):
        if kept:
            turns = (rotations[kept].swapaxes(-1, -2) @ own).reshape(len(kept), -1, 9)
            traces = turns @ turns.swapaxes(-1, -2)  # of every view, with every view's turn
            best = np.median(traces, axis=1).argmax(1)
            farthest = traces[np.arange(len(kept)), :, best].min(1)
            if (farthest > least).any():
                continue
        kept.append(index)
    return kept
