"""Alignment of all views together: Gauss-Newton on normals, depths and contours of near pairs."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from pmni.config.registration import JointAlignmentSettings
from pmni.registration.multiview.pose_set import PairingContext, PoseSet, mutual, partners
from pmni.registration.pairwise.alignment import pair_equations
from pmni.registration.pairwise.epipolar_tangency import tangency

PAIRS_AT_ONCE = 16
"""Pairs whose equations are made together on a CPU: they stay in the processor's cache."""


def align_jointly(
    context: PairingContext, poses: PoseSet, iterations: int | None = None
) -> PoseSet:
    """Poses and depth scales of all views after damped Gauss-Newton steps; `context` is unscaled.

    Each pose moves by a left perturbation about the object's centre in its camera; a pair's
    equations in the perturbation of its relative pose are transferred to both views by the chain
    rule. Near pairs are compared by normals, depths and contours, all pairs by the tangency of
    their silhouettes. A change of a view's scale moves its camera together with its depths: only
    silhouettes are sensitive to it.
    """
    settings = context.settings.multiview.joint
    return _gauss_newton(context, poses, iterations or settings.iterations, None)


def align_view(context: PairingContext, poses: PoseSet, view: int) -> PoseSet:
    """One view aligned as `align_jointly` does it, all others fixed."""
    return _gauss_newton(context, poses, context.settings.multiview.joint.view_iterations, view)


def _gauss_newton(
    context: PairingContext, poses: PoseSet, iterations: int, only: int | None
) -> PoseSet:
    """Poses after Gauss-Newton steps of all views, or of one."""
    settings = context.settings.multiview.joint
    for iteration in range(iterations):
        progress = iteration / max(iterations - 1, 1)
        scaled = context.scaled(poses.scales)
        equations = _NormalEquations(scaled, poses, only)
        equations.add_surfaces(_geometric(settings.sigma_depth, progress))
        equations.add_silhouettes(_geometric(settings.sigma_silhouette, progress))
        poses = _retract(poses, scaled, equations.solve())
    return poses


def _retract(poses: PoseSet, scaled: PairingContext, step: Float[np.ndarray, "V 7"]) -> PoseSet:
    """The poses after a step of limited length; the mean scale stays 1."""
    settings = scaled.settings.multiview.joint
    rotation = Rotation.from_rotvec(_limited(step[:, :3], settings.max_rotation)).as_matrix()
    shift = _limited(step[:, 3:6], settings.max_translation * scaled.views.radius)
    growth = step[:, 6].clip(-settings.max_scale, settings.max_scale)
    rotated = (rotation @ (poses.translations - scaled.centres)[..., None])[..., 0]
    translations = rotated + scaled.centres * (1 + growth)[:, None] + shift
    scales = poses.scales * (1 + growth)
    mean = float(scales.mean())
    return PoseSet(rotation @ poses.rotations, translations / mean, scales / mean)


def near_pairs(
    cosines: Float[np.ndarray, "V V"], settings: JointAlignmentSettings
) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """The near pairs i < j that are compared: each view's nearest partners, and others of the rest
    at equal steps."""
    cosines = np.where(np.eye(len(cosines), dtype=bool), -np.inf, cosines)
    used = np.zeros(cosines.shape, bool)
    threshold, most = float(np.cos(np.deg2rad(settings.near_deg))), settings.max_partners
    for view, order in enumerate(np.argsort(-cosines, axis=1, kind="stable")):
        near = order[cosines[view, order] > threshold]
        if len(near) > most:
            half = most // 2
            rest = np.linspace(half, len(near) - 1, most - half).astype(int)
            near = np.concatenate([near[:half], near[rest]])
        used[view, near] = True
    first, second = np.nonzero(np.triu(used | used.T))
    return first, second


def source_jacobian(
    R: Float[np.ndarray, "K 3 3"], offset: Float[np.ndarray, "K 3"]
) -> Float[np.ndarray, "K 6 6"]:
    """B in delta = B xi_i + xi_j: the derivative of the relative pose R, t by view i's
    perturbation.

    Perturbations (rotation vector, translation) are about the centres c_i and c_j;
    `offset` = c_j - R c_i - t.
    """
    x, y, z = offset.T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    B = np.zeros((len(R), 6, 6))
    B[:, :3, :3] = B[:, 3:, 3:] = -R
    B[:, 3:, :3] = cross @ R
    return B


class _NormalEquations:
    """The normal equations of all views' perturbations (rotation, translation) and scales.

    With `only`, those of one view, the others being fixed. `scaled` has the poses' depth scales.
    """

    def __init__(self, scaled: PairingContext, poses: PoseSet, only: int | None = None) -> None:
        count = len(poses.rotations)
        self.scaled, self.poses, self.only = scaled, poses, only
        self.settings = scaled.settings.multiview.joint
        self.matrix = np.zeros((count, count, 7, 7))
        self.rhs = np.zeros((count, 7))

    def add_surfaces(self, sigma_depth: float) -> None:
        """Add the equations of normals, depths and contours of near pairs."""
        cosines = self.poses.axes_cosines()
        first, second = self._involved(*near_pairs(cosines, self.settings))
        R, t = self.poses.relative(first, second)
        A, b = _surface_equations(self.scaled, first, second, R, t, sigma_depth)
        self._add(first, second, self._pose_jacobian(first, second, R, t), A, b)

    def add_silhouettes(self, sigma: float) -> None:
        """Add the equations of the tangency of all silhouettes."""
        scaled = self.scaled
        cosines = self.poses.axes_cosines()
        first, second = self._involved(*np.nonzero(np.triu(mutual(partners(cosines)))))
        R, t = self.poses.relative(first, second)
        planes = tangency(scaled.hulls, scaled.centres, scaled.views.radius, first, second, R, t)
        relative = planes.residuals / self.settings.silhouette_robust_scale
        weights = planes.valid[:, None] / (1 + relative**2) ** 2
        weighted = planes.jacobian * (weights / sigma**2)[..., None]
        A = weighted.swapaxes(1, 2) @ planes.jacobian
        b = -np.einsum("kra,kr->ka", weighted, planes.residuals)
        B = self._pose_jacobian(first, second, R, t)
        # a larger scale moves the camera away along the ray to the centre
        B[:, 0, :, 6] = (B[:, 0, :, 3:6] @ scaled.centres[first, :, None])[..., 0]
        B[:, 1, :, 6] = (B[:, 1, :, 3:6] @ scaled.centres[second, :, None])[..., 0]
        self._add(first, second, B, A, b)

    def solve(self) -> Float[np.ndarray, "V 7"]:
        """The step of all views; the damping also fixes the gauge."""
        count = len(self.rhs)
        matrix = self.matrix.copy()
        matrix[np.arange(count), np.arange(count), 6, 6] += self.settings.sigma_scale**-2
        free = np.arange(count) if self.only is None else np.array([self.only])
        blocks = matrix[np.ix_(free, free)]
        system = blocks.swapaxes(1, 2).reshape(7 * len(free), 7 * len(free))
        diagonal = np.diag(system)
        system = system + np.diag(
            self.settings.damping * diagonal + 1e-6 * (diagonal.mean() + 1e-12)
        )
        step = np.zeros((count, 7))
        rhs = torch.from_numpy(self.rhs[free].reshape(-1))
        step[free] = torch.linalg.solve(torch.from_numpy(system), rhs).numpy().reshape(-1, 7)
        return step

    def _involved(
        self, first: Int[np.ndarray, " K"], second: Int[np.ndarray, " K"]
    ) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
        """The pairs that have a view which is free to move."""
        if self.only is None:
            return first, second
        involved = (first == self.only) | (second == self.only)
        return first[involved], second[involved]

    def _pose_jacobian(
        self,
        first: Int[np.ndarray, " K"],
        second: Int[np.ndarray, " K"],
        R: Float[np.ndarray, "K 3 3"],
        t: Float[np.ndarray, "K 3"],
    ) -> Float[np.ndarray, "K 2 6 7"]:
        """Derivatives of relative poses by the unknowns of their two views; zero for scales."""
        centres = self.scaled.centres
        offset = centres[second] - (R @ centres[first, :, None])[..., 0] - t
        B = np.zeros((len(R), 2, 6, 7))
        B[:, 0, :, :6] = source_jacobian(R, offset)
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
        """Add equations A, b of relative poses, transformed by the chain rule: B^T A B, B^T b."""
        transposed = B.swapaxes(-1, -2)
        for row, left in ((first, 0), (second, 1)):
            np.add.at(self.rhs, row, (transposed[:, left] @ b[..., None])[..., 0])
            for column, right in ((first, 0), (second, 1)):
                np.add.at(self.matrix, (row, column), transposed[:, left] @ A @ B[:, right])


def _surface_equations(
    scaled: PairingContext,
    first: Int[np.ndarray, " K"],
    second: Int[np.ndarray, " K"],
    R: Float[np.ndarray, "K 3 3"],
    t: Float[np.ndarray, "K 3"],
    sigma_depth: float,
) -> tuple[Float[np.ndarray, "K 6 6"], Float[np.ndarray, "K 6"]]:
    """`pair_equations` of relative poses that are NumPy arrays, a few pairs at a time."""
    settings, views = scaled.settings.multiview.joint, scaled.views
    device = views.device
    inputs = [
        torch.from_numpy(array).to(device)
        for array in (first, second, R.astype("f4"), t.astype("f4"))
    ]
    at_once = PAIRS_AT_ONCE if device.type == "cpu" else len(first)
    parts = []
    for i, j, relative, shift in zip(*(array.split(at_once) for array in inputs), strict=True):
        pairs = (views, i, j, relative, shift)
        scales = (settings.sigma_normal, sigma_depth)
        alignment = scaled.settings.pairwise.alignment
        parts.append(pair_equations(*pairs, *scales, alignment, settings.points))
    A, b = (torch.cat([part[k] for part in parts]).double().cpu().numpy() for k in (0, 1))
    return A, b


def _geometric(ends: tuple[float, float], share: float) -> float:
    """Geometric interpolation from the first end to the second."""
    return ends[0] * (ends[1] / ends[0]) ** share


def _limited(vectors: Float[np.ndarray, "V 3"], length: float) -> Float[np.ndarray, "V 3"]:
    """Vectors shortened to at most this length."""
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors * np.minimum(1, length / norm.clip(1e-12))
