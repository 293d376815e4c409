"""Epipolar tangency: constraints of two silhouettes on a relative pose, without any depth.

The two planes through both camera centres that touch the object touch both silhouettes. So the
extreme rays of one silhouette, as angles about the baseline, are those of the other: two equations
for each pair of views, however far apart they are (Hernandez, Schmitt, Cipolla, Silhouette
coherence for camera calibration under circular motion, PAMI 2007).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import ConvexHull

from pmni.registration.working_views import WorkingViews

BASELINE_CLEARANCE = 1.3
"""Least distance of the object from the baseline, object radii: nearer, the epipole may lie in the
silhouette, and there are no tangent planes."""


def hull_rays(views: WorkingViews) -> Float[np.ndarray, "V N 3"]:
    """Viewing rays (x, y, 1) of the convex hull of each silhouette, padded with the last one.

    Corners of a hull are zero crossings of the signed distance between pixels. A silhouette that
    is cut off by the image's border has no known hull: its single ray points backwards and is never
    valid.
    """
    hulls = []
    for distance, K, cut_off in zip(
        views.signed_distance.double().cpu().numpy(),
        views.intrinsics.double().cpu().numpy(),
        views.unobserved.flatten(1).any(1).tolist(),
        strict=True,
    ):
        if cut_off:
            hulls.append(np.array([[0.0, 0.0, -1.0]]))
            continue
        pixels = _contour(distance)
        corners = pixels[ConvexHull(pixels).vertices]
        rays = np.linalg.solve(K, np.column_stack([corners, np.ones(len(corners))]).T).T
        hulls.append(rays)
    longest = max(len(rays) for rays in hulls)
    return np.stack([np.pad(rays, ((0, longest - len(rays)), (0, 0)), "edge") for rays in hulls])


def _contour(distance: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "N 2"]:
    """Pixels (u, v) where the distance changes sign between neighbours, interpolated."""
    points = []
    for axis in (0, 1):
        near = np.moveaxis(distance, axis, 0)
        before, after = near[:-1], near[1:]
        along, across = np.nonzero((before < 0) != (after < 0))
        share = before[along, across] / (before[along, across] - after[along, across])
        crossing = np.column_stack([along + share, across])  # along the axis, and the other one
        points.append(crossing[:, ::-1] if axis == 0 else crossing)
    return np.concatenate(points)


@dataclass(frozen=True)
class Tangency:
    """Gap between the tangent planes of K pairs, on both sides of the object."""

    residuals: Float[np.ndarray, "K 2"]
    """Lengths at the object, in object radii; zero where not valid."""
    jacobian: Float[np.ndarray, "K 2 6"]
    """With respect to a left perturbation (rotation vector, translation) about the target's centre,
    as of `pair_equations`."""
    valid: Bool[np.ndarray, " K"]
    """False where the views are opposite or in the same place: they have no such planes."""


def tangency(
    hulls: Float[np.ndarray, "V N 3"],
    centres: Float[np.ndarray, "V 3"],
    radius: float,
    source: Int[np.ndarray, " K"],
    target: Int[np.ndarray, " K"],
    R: Float[np.ndarray, "K 3 3"],
    t: Float[np.ndarray, "K 3"],
) -> Tangency:
    """Tangency of relative poses x_target = R x_source + t, in the target's frame."""
    length = np.linalg.norm(t, axis=1).clip(1e-9)
    baseline = t / length[:, None]
    moved = (R @ centres[source, :, None])[..., 0] + t
    middle = (centres[target] + moved) / 2
    out = middle - baseline * (middle * baseline).sum(1, keepdims=True)
    distance = np.linalg.norm(out, axis=1).clip(1e-9)
    out /= distance[:, None]
    side = np.cross(baseline, out)
    valid = (distance > BASELINE_CLEARANCE * radius) & (length > 0.05 * distance)

    rays = (hulls[source] @ R.swapaxes(-1, -2), hulls[target])
    extremes = []
    for ray in rays:
        forward = (ray @ out[..., None])[..., 0]
        valid &= (forward > 0).all(1)
        slope = (ray @ side[..., None])[..., 0] / np.where(forward > 0, forward, 1)
        ends = np.stack([slope.argmin(1), slope.argmax(1)], 1)
        extremes.append(np.take_along_axis(ray, ends[..., None], 1))
    first, second = extremes  # K 2 3
    b = baseline[:, None]
    across = np.linalg.norm(np.cross(b, first), axis=-1) * np.linalg.norm(
        np.cross(b, second), axis=-1
    )
    scale = (distance[:, None] / across / radius) * valid[:, None]
    residuals = scale * (np.cross(b, first) * second).sum(-1)

    normal = np.cross(first, second)
    arm = (t - centres[target])[:, None]
    shift = normal / length[:, None, None]
    turn = np.cross(arm, shift) + np.cross(first, np.cross(second, b))
    jacobian = scale[..., None] * np.concatenate([turn, shift], -1)
    return Tangency(residuals, jacobian, valid)
