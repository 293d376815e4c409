"""All poses together: Gauss-Newton on the normals, depths and contours of all near pairs."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from pmni.registration.multiview.pose_set import PoseSet, Sight, mutual, partners
from pmni.registration.pairwise.alignment import pair_equations
from pmni.registration.pairwise.silhouettes import tangency
from pmni.registration.views import Views

NEAR = float(np.cos(np.deg2rad(65.0)))
"""Pairs whose viewing axes are closer than this take part."""

MOST_PARTNERS = 8
"""Of those, each view's closest ones and a few others, so that the work grows with the views."""

SIGMA_NORMAL = 0.15
SIGMA_DEPTH = (0.15, 0.075)
"""Object radii; shrinks over the iterations."""

SIGMA_SILHOUETTE = (0.005, 0.0015)
SILHOUETTE_SCALE = 0.05
"""Object radii: of the tangency of silhouettes, and where its robust weights fall off."""

SIGMA_SCALE = 0.05
"""Of a step of the views' scales."""

POINTS = 250
"""Surface points of each view that are compared."""

_AT_ONCE = 16  # pairs whose equations are made together: they stay in the processor's cache
_DAMPING = 1e-3
_LARGEST_TURN, _LARGEST_SHIFT, _LARGEST_GROWTH = 0.15, 0.2, 0.1  # a step: radians, radii, share


def refine_jointly(sight: Sight, poses: PoseSet, iterations: int = 8) -> PoseSet:
    """Poses and scales after a number of damped Gauss-Newton steps; `sight` is unscaled.

    Each pose moves by a left perturbation about the object's centre in its camera; a pair's
    equations in the perturbation of its relative pose are carried over to both. Near pairs are
    compared by normals, depths and contours, all pairs by the tangency of their silhouettes. A
    change of a view's scale moves its camera away with its depths: only the silhouettes feel that.
    """
    for iteration in range(iterations):
        progress = iteration / max(iterations - 1, 1)
        now = sight.scaled(poses.scales)
        system = _System(now, poses)
        system.add_surfaces(_between(SIGMA_DEPTH, progress))
        system.add_silhouettes(_between(SIGMA_SILHOUETTE, progress))
        poses = _moved(poses, now, system.solve())
    return poses


def refine_view(sight: Sight, poses: PoseSet, view: int, iterations: int = 3) -> PoseSet:
    """One view refined as `refine_jointly` does it, all others held where they are."""
    for iteration in range(iterations):
        progress = iteration / max(iterations - 1, 1)
        now = sight.scaled(poses.scales)
        system = _System(now, poses, view)
        system.add_surfaces(_between(SIGMA_DEPTH, progress))
        system.add_silhouettes(_between(SIGMA_SILHOUETTE, progress))
        poses = _moved(poses, now, system.solve())
    return poses


def _moved(poses: PoseSet, now: Sight, step: Float[np.ndarray, "V 7"]) -> PoseSet:
    """After a step of limited length; the mean scale stays 1."""
    shift = _limited(step[:, :3], _LARGEST_SHIFT * now.views.radius)
    turn = Rotation.from_rotvec(_limited(step[:, 3:6], _LARGEST_TURN)).as_matrix()
    growth = step[:, 6].clip(-_LARGEST_GROWTH, _LARGEST_GROWTH)
    about = (turn @ (poses.translations - now.centres)[..., None])[..., 0]
    translations = about + now.centres * (1 + growth)[:, None] + shift
    scales = poses.scales * (1 + growth)
    size = float(scales.mean())
    return PoseSet(turn @ poses.rotations, translations / size, scales / size)


def near_pairs(
    cosines: Float[np.ndarray, "V V"],
) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """The pairs i < j that take part: each view's closest partners, and every n-th of the rest."""
    cosines = np.where(np.eye(len(cosines), dtype=bool), -np.inf, cosines)
    used = np.zeros(cosines.shape, bool)
    for view, order in enumerate(np.argsort(-cosines, axis=1, kind="stable")):
        near = order[cosines[view, order] > NEAR]
        if len(near) > MOST_PARTNERS:
            half = MOST_PARTNERS // 2
            rest = np.linspace(half, len(near) - 1, MOST_PARTNERS - half).astype(int)
            near = np.concatenate([near[:half], near[rest]])
        used[view, near] = True
    first, second = np.nonzero(np.triu(used | used.T))
    return first, second


def carried(
    R: Float[np.ndarray, "K 3 3"], offset: Float[np.ndarray, "K 3"]
) -> Float[np.ndarray, "K 6 6"]:
    """B in delta = B xi_i + xi_j: what view i's perturbation does to the relative pose R, t.

    Perturbations (translation, rotation vector) are about the centres c_i and c_j;
    `offset` = c_j - R c_i - t.
    """
    x, y, z = offset.T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    B = np.zeros((len(R), 6, 6))
    B[:, :3, :3] = B[:, 3:, 3:] = -R
    B[:, :3, 3:] = cross @ R
    return B


class _System:
    """The normal equations of all views' perturbations (translation, rotation) and scales.

    With `only`, those of one view; the others stay.
    """

    def __init__(self, now: Sight, poses: PoseSet, only: int | None = None) -> None:
        count = len(poses.rotations)
        self.now, self.poses, self.only = now, poses, only
        self.matrix = np.zeros((count, count, 7, 7))
        self.right = np.zeros((count, 7))

    def add_surfaces(self, sigma_depth: float) -> None:
        """What the near pairs' normals, depths and contours say."""
        first, second = self._of_interest(*near_pairs(self.poses.axes_cosines()))
        R, t = self.poses.relative(first, second)
        A, b = _surface_equations(self.now.views, first, second, R, t, sigma_depth)
        self._add(first, second, self._carried(first, second, R, t), A, b)

    def add_silhouettes(self, sigma: float) -> None:
        """What the tangency of all silhouettes says."""
        now = self.now
        cosines = self.poses.axes_cosines()
        first, second = self._of_interest(*np.nonzero(np.triu(mutual(partners(cosines)))))
        R, t = self.poses.relative(first, second)
        met = tangency(now.hulls, now.centres, now.views.radius, first, second, R, t)
        weights = met.valid[:, None] / (1 + (met.residuals / SILHOUETTE_SCALE) ** 2) ** 2
        weighted = met.jacobian * (weights / sigma**2)[..., None]
        A = weighted.swapaxes(1, 2) @ met.jacobian
        b = -np.einsum("kra,kr->ka", weighted, met.residuals)
        B = self._carried(first, second, R, t)
        # growth moves the camera away along the ray to the centre
        B[:, 0, :, 6] = (B[:, 0, :, :3] @ now.centres[first, :, None])[..., 0]
        B[:, 1, :, 6] = (B[:, 1, :, :3] @ now.centres[second, :, None])[..., 0]
        self._add(first, second, B, A, b)

    def solve(self) -> Float[np.ndarray, "V 7"]:
        """The unknowns; the damping also fixes the world's frame."""
        count = len(self.right)
        matrix = self.matrix.copy()
        matrix[np.arange(count), np.arange(count), 6, 6] += SIGMA_SCALE**-2
        free = np.arange(count) if self.only is None else np.array([self.only])
        chosen = matrix[np.ix_(free, free)]
        system = chosen.swapaxes(1, 2).reshape(7 * len(free), 7 * len(free))
        diagonal = np.diag(system)
        system = system + np.diag(_DAMPING * diagonal + 1e-6 * (diagonal.mean() + 1e-12))
        step = np.zeros((count, 7))
        right = torch.from_numpy(self.right[free].reshape(-1))
        step[free] = torch.linalg.solve(torch.from_numpy(system), right).numpy().reshape(-1, 7)
        return step

    def _of_interest(
        self, first: Int[np.ndarray, " K"], second: Int[np.ndarray, " K"]
    ) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
        if self.only is None:
            return first, second
        chosen = (first == self.only) | (second == self.only)
        return first[chosen], second[chosen]

    def _carried(
        self,
        first: Int[np.ndarray, " K"],
        second: Int[np.ndarray, " K"],
        R: Float[np.ndarray, "K 3 3"],
        t: Float[np.ndarray, "K 3"],
    ) -> Float[np.ndarray, "K 2 6 7"]:
        """The derivatives of a relative pose by the unknowns of its two views, without scales."""
        centres = self.now.centres
        offset = centres[second] - (R @ centres[first, :, None])[..., 0] - t
        B = np.zeros((len(R), 2, 6, 7))
        B[:, 0, :, :6] = carried(R, offset)
        B[:, 1, :, :6] = np.eye(6)
        return B

    def _add(
        self,
        first: Int[np.ndarray, " K"],
        second: Int[np.ndarray, " K"],
        B: Float[np.ndarray, "K 2 6 7"],
        A: Float[np.ndarray, "K 6 6"],
        b: Float[np.ndarray, "K 6"],
    ) -> None:
        carry = B.swapaxes(-1, -2)
        for row, left in ((first, 0), (second, 1)):
            np.add.at(self.right, row, (carry[:, left] @ b[..., None])[..., 0])
            for column, right in ((first, 0), (second, 1)):
                np.add.at(self.matrix, (row, column), carry[:, left] @ A @ B[:, right])


def _surface_equations(
    views: Views,
    first: Int[np.ndarray, " K"],
    second: Int[np.ndarray, " K"],
    R: Float[np.ndarray, "K 3 3"],
    t: Float[np.ndarray, "K 3"],
    sigma_depth: float,
) -> tuple[Float[np.ndarray, "K 6 6"], Float[np.ndarray, "K 6"]]:
    device = views.device
    inputs = [
        torch.from_numpy(array).to(device)
        for array in (first, second, R.astype("f4"), t.astype("f4"))
    ]
    at_once = _AT_ONCE if device.type == "cpu" else len(first)
    parts = []
    for i, j, relative, shift in zip(*(array.split(at_once) for array in inputs), strict=True):
        parts.append(
            pair_equations(views, i, j, relative, shift, SIGMA_NORMAL, sigma_depth, POINTS)
        )
    A, b = (torch.cat([part[k] for part in parts]).double().cpu().numpy() for k in (0, 1))
    return A, b


def _between(ends: tuple[float, float], share: float) -> float:
    """Geometrically."""
    return ends[0] * (ends[1] / ends[0]) ** share


def _limited(vectors: Float[np.ndarray, "V 3"], length: float) -> Float[np.ndarray, "V 3"]:
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors * np.minimum(1, length / norm.clip(1e-12))
