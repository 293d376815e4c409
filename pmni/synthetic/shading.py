"""Systematic errors of measured normals: interreflection and shadows.

Unlike noise, these errors belong to the object: they are the same in every view that observes a
point in the same light, and no average over views removes them.

Interreflection. Photometric stereo that knows only direct light sees of a Lambertian surface the
pseudo facets N' = (I - albedo K)^-1 N, K the form factors between facets; they are shallower than
the concavity (Nayar, Ikeuchi and Kanade, IJCV 1991, Eq. 11). Here to first order:
n' ~ n + strength b, where b is the mean of the normals that a point sees, weighted with the cosine
(zero for the sky).

Shadows. The lamp is fixed to the camera. Where it does not reach (attached and cast shadows), the
normals in some patches have nothing to do with the surface.
"""

from collections.abc import Callable, Sequence

import numpy as np
import trimesh
from jaxtyping import Bool, Float
from scipy.optimize import brentq
from scipy.spatial import cKDTree
from scipy.stats import norm

from pmni.errors import InputError
from pmni.geometry.cameras import flip_yz
from pmni.geometry.mesh import Mesh
from pmni.synthetic.noise import angle_between, clamp_to_visible, random_fields, rotate_normals
from pmni.synthetic.rendering import View
from pmni.synthetic.shapes import normalised

_MAX_INTERREFLECTION = 3.0
"""Strength of interreflection at severity 1: several bounces, albedo near 1."""
_SURFACE_SAMPLES = 24_000
"""Number of points on the surface at which the visible normals are averaged."""
_DIRECTIONS = 128
"""Number of directions over the sphere in which each point's surroundings are sampled."""
_NEIGHBOURS = 6
"""Number of nearest samples that are averaged at a point of the surface."""
_MIN_COSINE = 0.05
"""Smallest cosine between a lit normal and the direction of the light."""
_RAY_OFFSET = 2e-3
"""Height above the surface at which rays start, relative to the object's radius."""
_LAMP_ANGLE = np.deg2rad(50.0)
"""Angle between the lamp's direction and the optical axis, radians."""
_PATCH_LENGTH = 12.0
"""Correlation length of the shadows' outlier patches, pixels at the reference height."""
_GRAIN_LENGTH = 5.0
"""Correlation length of the normals in a patch, pixels at the reference height."""
_PATCH_ANGLE = np.deg2rad(30.0)
"""Standard deviation of a patch's normals along each tangent direction, radians."""
_REFERENCE_HEIGHT = 512
"""Image height to which the correlation lengths refer, pixels."""


class MutualVisibility:
    """The parts of a surface that its points see: mean visible normals, and shadows."""

    def __init__(self, mesh: Mesh) -> None:
        self._tracer = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
        self._lift = _RAY_OFFSET * float(np.linalg.norm(mesh.vertices, axis=1).max())
        points, face = trimesh.sample.sample_surface(self._tracer, _SURFACE_SAMPLES, seed=0)
        weights = trimesh.triangles.points_to_barycentric(self._tracer.triangles[face], points)
        normals = np.einsum("ni,nij->nj", weights, mesh.normals[mesh.faces[face]])
        self._normals = normalised(normals)
        self._seen = self._mean_visible_normal(np.asarray(points), np.asarray(face))
        self._tree = cKDTree(points)

    def mean_visible_normal(
        self, points: Float[np.ndarray, "N 3"], normals: Float[np.ndarray, "N 3"]
    ) -> Float[np.ndarray, "N 3"]:
        """The vector b at points of the surface; zero where only sky is seen."""
        _, nearest = self._tree.query(points, k=_NEIGHBOURS)
        alike = np.einsum("nki,ni->nk", self._normals[nearest], normals) > 0.5
        total = (self._seen[nearest] * alike[..., None]).sum(1)
        return total / np.maximum(alike.sum(1), 1)[:, None]

    def in_shadow(
        self,
        points: Float[np.ndarray, "N 3"],
        normals: Float[np.ndarray, "N 3"],
        light: Float[np.ndarray, "3"],
    ) -> Bool[np.ndarray, " N"]:
        """Where light from the direction `light` (unit, towards the lamp) does not reach."""
        shadow = normals @ light < _MIN_COSINE
        lit = np.flatnonzero(~shadow)
        shadow[lit] = self._hit(points[lit] + self._lift * normals[lit], light) >= 0
        return shadow

    def _mean_visible_normal(
        self, points: Float[np.ndarray, "N 3"], face: np.ndarray
    ) -> Float[np.ndarray, "N 3"]:
        flat = self._tracer.face_normals[face]
        start = points + self._lift * flat
        total, weight = np.zeros_like(points), np.zeros(len(points))
        for direction in _sphere(_DIRECTIONS):
            cosine = self._normals @ direction
            up = np.flatnonzero((cosine > _MIN_COSINE) & (flat @ direction > _MIN_COSINE))
            weight[up] += cosine[up]
            hit = self._hit(start[up], direction)
            there = hit >= 0
            seen = self._tracer.face_normals[hit[there]]
            total[up[there]] += cosine[up[there], None] * seen
        return total / np.maximum(weight, 1e-9)[:, None]

    def _hit(self, start: Float[np.ndarray, "N 3"], direction: np.ndarray) -> np.ndarray:
        """The first triangle along the rays; -1 for none, and where it is left from inside."""
        directions = np.broadcast_to(direction, start.shape)
        face = self._tracer.ray.intersects_first(start, directions)
        return np.where(self._tracer.face_normals[face] @ direction < 0, face, -1)


def shading_errors(
    views: Sequence[View],
    c2w: Float[np.ndarray, "V 4 4"],
    mesh: Mesh,
    mean_angle: float,
    rng: np.random.Generator,
) -> list[Float[np.ndarray, "H W 3"]]:
    """Normals (camera frame) of all views, wrong by `mean_angle` (radians) on average over all.

    One severity from 0 to 1 rules both causes: the strength of interreflection grows with it, the
    part of the shadows that patches cover with its square. It is chosen so that the mean is as
    asked. Every normal still faces the camera. Raises InputError when the object has too few
    concavities and shadows for that.
    """
    visibility = MutualVisibility(mesh)
    azimuth = rng.uniform(0, 2 * np.pi)
    flat = np.sin(_LAMP_ANGLE)
    light = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), -np.cos(_LAMP_ANGLE)])
    view_errors = [
        _view_errors(view, pose, visibility, light, rng)
        for view, pose in zip(views, c2w, strict=True)
    ]
    true = np.concatenate([view.normals[view.mask] for view in views])

    def reached(severity: float) -> float:
        wrong = np.concatenate([errors(severity) for errors in view_errors])
        return float(angle_between(wrong, true).mean())

    if (most := reached(1.0)) < mean_angle:
        raise InputError(
            f"interreflection and shadows cannot make this object's normals "
            f"{np.rad2deg(mean_angle):.1f} degrees wrong on average; {np.rad2deg(most):.1f} is the "
            "most here; lower `shading_error`"
        )
    severity = float(brentq(lambda s: reached(s) - mean_angle, 0.0, 1.0, xtol=1e-6))
    images = [np.zeros_like(view.normals) for view in views]
    for image, view, errors in zip(images, views, view_errors, strict=True):
        image[view.mask] = errors(severity)
    return images


def _view_errors(
    view: View,
    c2w: Float[np.ndarray, "4 4"],
    visibility: MutualVisibility,
    light: Float[np.ndarray, "3"],
    rng: np.random.Generator,
) -> Callable[[float], Float[np.ndarray, "N 3"]]:
    """severity -> wrong normals of the mask's pixels, camera frame. `light`: camera frame."""
    rotation = c2w[:3, :3]
    rays, true = view.rays[view.mask], view.normals[view.mask]
    points = (view.ray_distance[view.mask, None] * rays) @ rotation.T + c2w[:3, 3]
    normals = true @ rotation.T
    bend = visibility.mean_visible_normal(points, normals) @ rotation
    shadow = visibility.in_shadow(points, normals, rotation @ light)

    per_row = view.mask.shape[0] / _REFERENCE_HEIGHT
    patch = random_fields(view.mask.shape, np.array([_PATCH_LENGTH * per_row]), 1, rng)
    grain = random_fields(view.mask.shape, np.array([_GRAIN_LENGTH * per_row]), 2, rng)
    height, tangent = patch[view.mask][:, 0], _PATCH_ANGLE * grain[view.mask]
    towards = -flip_yz(rays)
    outliers = flip_yz(clamp_to_visible(rotate_normals(flip_yz(true), tangent), towards))

    def wrong(severity: float) -> Float[np.ndarray, "N 3"]:
        bent = normalised(true + _MAX_INTERREFLECTION * severity * bend)
        seen = flip_yz(clamp_to_visible(flip_yz(bent), towards))
        bent = np.where(bend.any(1, keepdims=True), seen, true)
        covered = shadow & (height > norm.ppf(1 - severity**2))
        return np.where(covered[:, None], outliers, bent)

    return wrong


def _sphere(count: int) -> Float[np.ndarray, "N 3"]:
    """Directions spread evenly: a Fibonacci lattice."""
    index = np.arange(count) + 0.5
    z = 1 - 2 * index / count
    angle = np.pi * (1 + np.sqrt(5)) * index
    return np.stack([np.sqrt(1 - z * z) * np.cos(angle), np.sqrt(1 - z * z) * np.sin(angle), z], 1)
