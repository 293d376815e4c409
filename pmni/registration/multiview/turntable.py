"""Turntables: views that turn about one axis, which is the same in every camera's frame."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from pmni.registration.multiview.graph import PairGraph

CONSISTENT = 12.0
"""Degrees from a common axis up to which a relative rotation is taken to be about it."""

OFF_AXIS, OFF_STEP = 5.0, 0.35
"""Largest 90th percentiles that a turntable may have: degrees off its axis, and parts of a step."""

_QUANTILE = 0.9
_TURNS = (10.0, 150.0)  # degrees: rotations whose axis is well defined
_SURE = 0.4  # score of the hypotheses that vote for an axis


@dataclass(frozen=True)
class CommonAxis:
    """The axis about which most relative rotations turn."""

    axis: Float[np.ndarray, "3"]
    """Unit, in the camera frame; its sign is arbitrary."""
    share: float
    """Of the votes: 0.9 to 1 on a turntable, some 0.2 for cameras anywhere."""
    votes: int
    """How many hypotheses were sure enough to vote."""


def common_axis(graph: PairGraph) -> CommonAxis:
    """The mode of the axes of the pairs' best relative rotations."""
    turns = Rotation.from_matrix(graph.rotations[:, 0]).as_rotvec()
    angle = np.linalg.norm(turns, axis=1)
    lowest, highest = np.deg2rad(_TURNS)
    clear = (angle > lowest) & (angle < highest)
    sure = clear & (graph.scores[:, 0] > _SURE)
    if not sure.any():
        return CommonAxis(np.array([0.0, -1.0, 0.0]), 0.0, 0)
    axes, weights = turns[sure] / angle[sure, None], graph.scores[sure, 0]
    threshold = np.cos(np.deg2rad(CONSISTENT))
    support = (np.abs(axes @ axes.T) > threshold) @ weights
    axis = axes[support.argmax()]
    for _ in range(5):
        cosines = axes @ axis
        agreeing = weights * np.sign(cosines) * (np.abs(cosines) > threshold)
        axis = agreeing @ axes
        axis /= np.linalg.norm(axis)
    return CommonAxis(axis, float(support.max() / weights.sum()), int(sure.sum()))


def about(
    axis: Float[np.ndarray, "3"], angles: Float[np.ndarray, "*n"]
) -> Float[np.ndarray, "*n 3 3"]:
    """Rotation matrices about a unit axis, angles in radians."""
    flat = Rotation.from_rotvec(np.reshape(angles, (-1, 1)) * axis).as_matrix()
    return flat.reshape(*np.shape(angles), 3, 3)


def twist(
    rotations: Float[np.ndarray, "*n 3 3"], axis: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
    """The closest rotation about a unit axis: its angle (radians), and what is left (degrees)."""
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
    left = about(axis, angles).swapaxes(-1, -2) @ rotations
    magnitude = Rotation.from_matrix(left.reshape(-1, 3, 3)).magnitude()
    return angles, np.rad2deg(magnitude.reshape(angles.shape))


def restrict(graph: PairGraph, axis: Float[np.ndarray, "3"]) -> PairGraph:
    """Only the hypotheses that turn about the axis (within CONSISTENT)."""
    _, off = twist(graph.rotations, axis)
    return graph.keep(np.isfinite(graph.scores) & (off < CONSISTENT))


@dataclass(frozen=True)
class Turntable:
    """Rotations R_i = turn(axis, angle_i) base that fit a set of world-to-camera rotations."""

    axis: Float[np.ndarray, "3"]
    base: Float[np.ndarray, "3 3"]
    angles: Float[np.ndarray, " V"]
    """Radians."""
    off_axis: Float[np.ndarray, " V"]
    """What each view's rotation is off, degrees."""
    slots: Int[np.ndarray, " V"]
    """A permutation: the views' places among V equal steps."""
    offset: float
    """The angle of place zero, radians."""

    @property
    def nominal(self) -> Float[np.ndarray, " V"]:
        """The angles of the views' places, radians."""
        return self.offset + self.slots * (2 * np.pi / len(self.slots))

    @property
    def off_step(self) -> Float[np.ndarray, " V"]:
        """Angles less those of the places, degrees."""
        return np.rad2deg(wrapped(self.angles - self.nominal))

    @property
    def step_deg(self) -> float:
        """Of V equal steps."""
        return 360 / len(self.angles)

    @property
    def common_axis(self) -> bool:
        """Whether (nearly) all views turn about the axis."""
        return float(np.quantile(self.off_axis, _QUANTILE)) < OFF_AXIS

    @property
    def equal_steps(self) -> bool:
        """Whether it is a turntable of equal steps, but for a tenth of the views."""
        steps = float(np.quantile(np.abs(self.off_step), _QUANTILE)) / self.step_deg
        return self.common_axis and steps < OFF_STEP

    def snapped(self) -> Float[np.ndarray, "V 3 3"]:
        """World-to-camera rotations about the axis in exactly equal steps."""
        return about(self.axis, self.nominal) @ self.base


def fit_turntable(rotations: Float[np.ndarray, "V 3 3"], iterations: int = 15) -> Turntable:
    """Fit a common axis and equal steps to world-to-camera rotations, robustly."""
    first, second = np.triu_indices(len(rotations), 1)
    relative = rotations[second] @ rotations[first].swapaxes(-1, -2)
    turns = Rotation.from_matrix(relative).as_rotvec()
    angle = np.linalg.norm(turns, axis=1)
    lowest, highest = np.deg2rad(_TURNS)
    clear = (angle > lowest) & (angle < highest)
    axes = (turns / angle.clip(1e-12)[:, None])[clear if clear.any() else slice(None)]
    support = (np.abs(axes @ axes.T) > np.cos(np.deg2rad(CONSISTENT))).sum(1)
    axis = axes[support.argmax()]
    weights = np.ones(len(rotations))
    base = rotations[_medoid(rotations, axis)]
    for _ in range(iterations):
        angles, _ = twist(rotations @ base.T, axis)
        base = _mean(about(axis, -angles) @ rotations, weights)
        left = rotations @ base.T @ about(axis, -angles)  # = exp(residual)
        residual = Rotation.from_matrix(left).as_rotvec()
        weights = 1 / (1 + (np.linalg.norm(residual, axis=1) / np.deg2rad(OFF_AXIS)) ** 2) ** 2
        axis = _better_axis(axis, angles, residual, weights)
    angles, off_axis = twist(rotations @ base.T, axis)
    return Turntable(axis, base, angles, off_axis, *equal_steps(angles))


def _medoid(rotations: Float[np.ndarray, "V 3 3"], axis: Float[np.ndarray, "3"]) -> int:
    """The view from which the others are, in the median, closest to turns about the axis."""
    relative = rotations[None] @ rotations[:, None].swapaxes(-1, -2)
    return int(np.median(twist(relative, axis)[1], axis=1).argmin())


def _mean(
    rotations: Float[np.ndarray, "V 3 3"], weights: Float[np.ndarray, " V"]
) -> Float[np.ndarray, "3 3"]:
    u, _, vt = np.linalg.svd((weights[:, None, None] * rotations).sum(0))
    return (u * [1, 1, np.linalg.det(u @ vt)]) @ vt


def _better_axis(
    axis: Float[np.ndarray, "3"],
    angles: Float[np.ndarray, " V"],
    residual: Float[np.ndarray, "V 3"],
    weights: Float[np.ndarray, " V"],
) -> Float[np.ndarray, "3"]:
    """One Gauss-Newton step: a turn d of the axis changes turn(axis, angle) by (I - R) d."""
    jacobian = np.eye(3) - about(axis, angles)
    normal = np.einsum("v,vij,vik->jk", weights, jacobian, jacobian) + np.outer(axis, axis) * 1e6
    right = np.einsum("v,vij,vi->j", weights, jacobian, residual)
    step = np.linalg.solve(normal + 1e-9 * np.eye(3), right)
    return Rotation.from_rotvec(step).apply(axis)


def equal_steps(angles: Float[np.ndarray, " V"]) -> tuple[Int[np.ndarray, " V"], float]:
    """The places of angles (radians) among V equal steps of the circle, and place zero's angle.

    Each view gets a place of its own at the least sum of distances, none counted as more than a
    step and a half: a few views that are far off do not move the others.
    """
    count = len(angles)
    step = 2 * np.pi / count
    # The angle modulo a step that is the least far from all others' is the medoid of the circle.
    apart = np.abs(wrapped((angles[:, None] - angles[None]) * count)) / count
    centre = angles[apart.sum(1).argmin()]
    offset = centre + np.median(wrapped((angles - centre) * count)) / count
    distances = np.abs(wrapped(angles[:, None] - offset - step * np.arange(count)))
    _, slots = linear_sum_assignment(np.minimum(distances, 1.5 * step) + 1e-3 * distances)
    return slots, float(offset % (2 * np.pi))


def wrapped(angles: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Angles in radians, in [-pi, pi)."""
    return (angles + np.pi) % (2 * np.pi) - np.pi
