"""Poses of all views (world to camera, with depth scales), and the context for comparing views."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation

from pmni.config.registration import RegisterSettings
from pmni.geometry.transforms import project_to_rotation
from pmni.registration.pairwise.epipolar_tangency import hull_rays
from pmni.registration.pairwise.support_functions import (
    SupportFunctions,
    search_grid,
    view_support_functions,
)
from pmni.registration.working_views import WorkingViews

ALL_PAIRS_LIMIT = 24
"""Largest number of views of which all pairs are compared."""
NEAREST_PARTNERS = 14
"""Nearest partners of a view among more views than that."""
SPREAD_PARTNERS = 6
"""Further partners of a view among more views than that, spread over the others."""
ROBUST_SCALE_DEG = 5.0
"""Scale of the robust alignment of two pose sets, degrees."""


@dataclass(frozen=True)
class PoseSet:
    """World-to-camera poses x_i = R_i X + t_i of all views, and the scales of their depths."""

    rotations: Float[np.ndarray, "V 3 3"]
    translations: Float[np.ndarray, "V 3"]
    scales: Float[np.ndarray, " V"]
    """Factors of each view's depths (`WorkingViews.depth`, points, centre)."""

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
class PairingContext:
    """Everything that poses of views are compared with: working views at given depth scales, their
    silhouettes, and the settings."""

    views: WorkingViews
    hulls: Float[np.ndarray, "V N 3"]
    """Rays of the silhouettes' convex hulls (`hull_rays`); they do not depend on the scales."""
    centres: Float[np.ndarray, "V 3"]
    """`WorkingViews.centres` in double precision."""
    settings: RegisterSettings

    @cached_property
    def supports(self) -> SupportFunctions:
        """The views' partial support functions."""
        grid = search_grid(self.settings.pairwise.search, self.views.device)
        return view_support_functions(self.views, grid)

    def scaled(self, scales: Float[np.ndarray, " V"]) -> "PairingContext":
        """The context with each view's depths multiplied by its scale."""
        views = self.views
        factor = torch.from_numpy(scales).to(views.depth)
        stretched = replace(
            views,
            depth=views.depth * factor[:, None, None],
            points=views.points * factor[:, None, None],
            centres=views.centres * factor[:, None],
        )
        # faster than concatenating the maps again; the cached property finds them in __dict__
        stretch = torch.ones(len(views), 1, 5).to(views.depth)
        stretch[:, 0, 3] = factor
        maps = views.maps.view(len(views), -1, 5) * stretch
        stretched.__dict__["maps"] = maps.view(-1, 5)
        return replace(self, views=stretched, centres=self.centres * scales[:, None])


def pairing_context(views: WorkingViews, settings: RegisterSettings) -> PairingContext:
    """The context of views with unscaled depths."""
    return PairingContext(views, hull_rays(views), views.centres.double().cpu().numpy(), settings)


def partners(cosines: Float[np.ndarray, "N V"]) -> Bool[np.ndarray, "N V"]:
    """Whether each of N views is compared with each of V, given the cosines between their axes.

    All pairs up to ALL_PAIRS_LIMIT views; else the nearest ones, and others at equal steps in the
    order of their angle: the work then grows with the number of views, not with its square.
    """
    count = cosines.shape[1]
    if count <= ALL_PAIRS_LIMIT:
        return np.ones(cosines.shape, bool)
    order = np.argsort(-cosines, axis=1, kind="stable")
    rest = np.linspace(NEAREST_PARTNERS + 1, count - 2, SPREAD_PARTNERS).astype(int)
    columns = np.concatenate([order[:, : NEAREST_PARTNERS + 1], order[:, rest]], 1)
    used = np.zeros(cosines.shape, bool)
    np.put_along_axis(used, columns, True, 1)
    return used


def mutual(used: Bool[np.ndarray, "V V"]) -> Bool[np.ndarray, "V V"]:
    """Whether either view of a pair has the other as a partner; False on the diagonal."""
    both = used | used.T
    np.fill_diagonal(both, False)
    return both


def differences_deg(
    first: Float[np.ndarray, "V 3 3"], second: Float[np.ndarray, "V 3 3"]
) -> Float[np.ndarray, " V"]:
    """Angle of each view between two sets of world-to-camera rotations, degrees.

    The world of the first is rotated onto the second's: first by the rotation of the one view for
    which the median difference is least, then by a robust mean of all views' rotations.
    """
    turns = first.swapaxes(-1, -2) @ second  # first @ turn = second
    # trace(second^T first turn) for every view (row) under every view's turn (column)
    traces = turns.reshape(-1, 9) @ turns.reshape(-1, 9).T
    start = np.median(traces, axis=0).argmax()
    turn = turns[start]
    for _ in range(5):
        error = Rotation.from_matrix(second.swapaxes(-1, -2) @ first @ turn).magnitude()
        weight = 1 / (1 + (np.rad2deg(error) / ROBUST_SCALE_DEG) ** 2) ** 2
        turn = project_to_rotation((weight[:, None, None] * turns).sum(0))
    return np.rad2deg(Rotation.from_matrix(second.swapaxes(-1, -2) @ first @ turn).magnitude())


def distinct(rotations: Float[np.ndarray, "B V 3 3"], degrees: float) -> list[int]:
    """Indices of those of B sets of world-to-camera rotations that differ from all kept before.

    Two sets differ if some view's angle is larger than `degrees`, after the world is rotated by the
    rotation of the one view for which the median difference is least.
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
