"""Turntables: views that rotate about one axis, which is the same in every camera's frame."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from pmni.config.registration import TurntableSettings
from pmni.geometry.transforms import project_to_rotation
from pmni.registration.multiview.graph import PairGraph

INLIER_QUANTILE = 0.9
"""Fraction of the views that have to fit a turntable."""
AXIS_ANGLES_DEG = (10.0, 150.0)
"""Smallest and largest angle of a rotation whose axis is well defined, degrees."""
VOTING_SCORE = 0.4
"""Least normalised score of hypotheses that vote for an axis."""


@dataclass(frozen=True)
class CommonAxis:
    """The axis of most relative rotations."""

    axis: Float[np.ndarray, "3"]
    """Unit, in the camera frame; its sign is arbitrary."""
    share: float
    """Share of the votes for it: 0.9 to 1 on a turntable, some 0.2 for cameras anywhere."""
    votes: int
    """Number of hypotheses that voted."""


def common_axis(graph: PairGraph, settings: TurntableSettings) -> CommonAxis:
    """The mode of the axes of the pairs' best relative rotations."""
    turns = Rotation.from_matrix(graph.rotations[:, 0]).as_rotvec()
    angle = np.linalg.norm(turns, axis=1)
    voting = _has_axis(angle) & (graph.scores[:, 0] > VOTING_SCORE)
    if not voting.any():
        return CommonAxis(np.array([0.0, -1.0, 0.0]), 0.0, 0)
    axes, weights = turns[voting] / angle[voting, None], graph.scores[voting, 0]
    threshold = np.cos(np.deg2rad(settings.consistent_deg))
    support = (np.abs(axes @ axes.T) > threshold) @ weights
    axis = axes[support.argmax()]
    for _ in range(5):
        cosines = axes @ axis
        agreeing = weights * np.sign(cosines) * (np.abs(cosines) > threshold)
        axis = agreeing @ axes
        axis /= np.linalg.norm(axis)
    return CommonAxis(axis, float(support.max() / weights.sum()), int(voting.sum()))


def _has_axis(angle: Float[np.ndarray, " K"]) -> Bool[np.ndarray, " K"]:
    """Whether rotations by these angles (radians) have a well-defined axis."""
    lowest, highest = np.deg2rad(AXIS_ANGLES_DEG)
    return (angle > lowest) & (angle < highest)


def rotation_about(
    axis: Float[np.ndarray, "3"], angles: Float[np.ndarray, "*n"]
) -> Float[np.ndarray, "*n 3 3"]:
    """Rotation matrices about a unit axis, angles in radians."""
    flat = Rotation.from_rotvec(np.reshape(angles, (-1, 1)) * axis).as_matrix()
    return flat.reshape(*np.shape(angles), 3, 3)


def twist(
    rotations: Float[np.ndarray, "*n 3 3"], axis: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
    """Swing-twist decomposition: the angle of the closest rotation about a unit axis (radians), and
    the angle of the remaining swing (degrees)."""
    skew = np.stack(
        [
            rotations[..., 2, 1] - rotations[..., 1, 2],
            rotations[..., 0, 2] - rotations[..., 2, 0],
            rotations[..., 1, 0] - rotations[..., 0, 1],
        ],
        -1,
    )
    along = np.einsum("i,...ij,j->...", axis, rotations, axis)
    angles = np.arctan2(skew @ axis, np.trace(rotations, axis1=-2, axis2=-1) - along)
    swing = rotation_about(axis, angles).swapaxes(-1, -2) @ rotations
    magnitude = Rotation.from_matrix(swing.reshape(-1, 3, 3)).magnitude()
    return angles, np.rad2deg(magnitude.reshape(angles.shape))


def restrict_to_axis(
    graph: PairGraph, axis: Float[np.ndarray, "3"], settings: TurntableSettings
) -> PairGraph:
    """The graph of the hypotheses that rotate about an axis."""
    _, off_axis_deg = twist(graph.rotations, axis)
    return graph.subgraph(np.isfinite(graph.scores) & (off_axis_deg < settings.consistent_deg))


@dataclass(frozen=True)
class Turntable:
    """Rotations R_i = R(axis, angle_i) base fitted to world-to-camera rotations."""

    axis: Float[np.ndarray, "3"]
    base: Float[np.ndarray, "3 3"]
    angles: Float[np.ndarray, " V"]
    """Radians."""
    off_axis: Float[np.ndarray, " V"]
    """Angle of each view's rotation off the turntable, degrees."""
    positions: Int[np.ndarray, " V"]
    """A permutation: the views' positions among V equal steps."""
    offset: float
    """Angle of position zero, radians."""
    settings: TurntableSettings

    @property
    def nominal(self) -> Float[np.ndarray, " V"]:
        """Angles of the views' positions, radians."""
        return self.offset + self.positions * (2 * np.pi / len(self.positions))

    @property
    def off_step(self) -> Float[np.ndarray, " V"]:
        """Deviation of the angles from those of the positions, degrees."""
        return np.rad2deg(wrapped(self.angles - self.nominal))

    @property
    def step_deg(self) -> float:
        """Angle of a step, degrees."""
        return 360 / len(self.angles)

    @property
    def has_common_axis(self) -> bool:
        """Whether nearly all views rotate about the axis."""
        return float(np.quantile(self.off_axis, INLIER_QUANTILE)) < self.settings.off_axis_deg

    @property
    def is_uniform(self) -> bool:
        """Whether nearly all views are at equal steps about the axis."""
        steps = float(np.quantile(np.abs(self.off_step), INLIER_QUANTILE)) / self.step_deg
        return self.has_common_axis and steps < self.settings.off_step

    @property
    def is_uniform_without_exception(self) -> bool:
        """Whether all views are at equal steps about the axis."""
        off_step = float(np.abs(self.off_step).max()) / self.step_deg
        on_axis = float(self.off_axis.max()) < self.settings.off_axis_deg
        return on_axis and off_step < self.settings.off_step

    def snapped(self) -> Float[np.ndarray, "V 3 3"]:
        """World-to-camera rotations about the axis in exactly equal steps."""
        return rotation_about(self.axis, self.nominal) @ self.base


def fit_turntable(
    rotations: Float[np.ndarray, "V 3 3"], settings: TurntableSettings, iterations: int = 15
) -> Turntable:
    """A common axis and equal steps fitted robustly to world-to-camera rotations."""
    first, second = np.triu_indices(len(rotations), 1)
    relative = rotations[second] @ rotations[first].swapaxes(-1, -2)
    turns = Rotation.from_matrix(relative).as_rotvec()
    angle = np.linalg.norm(turns, axis=1)
    clear = _has_axis(angle)
    axes = (turns / angle.clip(1e-12)[:, None])[clear if clear.any() else slice(None)]
    support = (np.abs(axes @ axes.T) > np.cos(np.deg2rad(settings.consistent_deg))).sum(1)
    axis = axes[support.argmax()]
    weights = np.ones(len(rotations))
    base = rotations[_medoid(rotations, axis)]
    for _ in range(iterations):
        angles, _ = twist(rotations @ base.T, axis)
        bases = rotation_about(axis, -angles) @ rotations
        base = project_to_rotation((weights[:, None, None] * bases).sum(0))
        error = rotations @ base.T @ rotation_about(axis, -angles)  # = exp(residual)
        residual = Rotation.from_matrix(error).as_rotvec()
        relative = np.linalg.norm(residual, axis=1) / np.deg2rad(settings.off_axis_deg)
        weights = 1 / (1 + relative**2) ** 2
        axis = _better_axis(axis, angles, residual, weights)
    angles, off_axis = twist(rotations @ base.T, axis)
    return Turntable(axis, base, angles, off_axis, *assign_positions(angles), settings)


def _medoid(rotations: Float[np.ndarray, "V 3 3"], axis: Float[np.ndarray, "3"]) -> int:
    """The view relative to which the others are, in the median, closest to rotations about the
    axis."""
    relative = rotations[None] @ rotations[:, None].swapaxes(-1, -2)
    return int(np.median(twist(relative, axis)[1], axis=1).argmin())


def _better_axis(
    axis: Float[np.ndarray, "3"],
    angles: Float[np.ndarray, " V"],
    residual: Float[np.ndarray, "V 3"],
    weights: Float[np.ndarray, " V"],
) -> Float[np.ndarray, "3"]:
    """The axis after a Gauss-Newton step: rotating it by d changes R(axis, angle) by (I - R) d."""
    jacobian = np.eye(3) - rotation_about(axis, angles)
    normal = np.einsum("v,vij,vik->jk", weights, jacobian, jacobian) + np.outer(axis, axis) * 1e6
    rhs = np.einsum("v,vij,vi->j", weights, jacobian, residual)
    step = np.linalg.solve(normal + 1e-9 * np.eye(3), rhs)
    return Rotation.from_rotvec(step).apply(axis)


def assign_positions(angles: Float[np.ndarray, " V"]) -> tuple[Int[np.ndarray, " V"], float]:
    """Positions of angles (radians) among V equal steps of the circle, and position zero's angle.

    Each view gets a position of its own, at the least sum of distances; none counts as more than a
    step and a half, so that outliers do not move the others.
    """
    count = len(angles)
    step = 2 * np.pi / count
    # the medoid of the angles modulo a step
    apart = np.abs(wrapped((angles[:, None] - angles[None]) * count)) / count
    centre = angles[apart.sum(1).argmin()]
    offset = centre + np.median(wrapped((angles - centre) * count)) / count
    distances = np.abs(wrapped(angles[:, None] - offset - step * np.arange(count)))
    _, positions = linear_sum_assignment(np.minimum(distances, 1.5 * step) + 1e-3 * distances)
    return positions, float(offset % (2 * np.pi))


def wrapped(angles: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Angles in radians, in [-pi, pi)."""
    return (angles + np.pi) % (2 * np.pi) - np.pi
