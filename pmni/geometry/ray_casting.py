"""Rays through pixels, and their first hits on triangle meshes."""

from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int
from trimesh.ray import has_embree

from pmni.errors import MissingBackendError
from pmni.geometry.cameras import pixel_grid, ray_directions
from pmni.geometry.mesh import Mesh, vertex_normals

CHUNK = 1 << 15
"""Number of rays whose arrays stay in the processor's cache."""


@dataclass(frozen=True)
class Rays:
    """Rays from the centres of some cameras."""

    view: Int[np.ndarray, " P"]
    """Index of each ray's camera."""
    centres: Float[np.ndarray, "V 3"]
    """Camera centres."""
    directions: Float[np.ndarray, "P 3"]
    """Unit vectors, world frame."""


@dataclass(frozen=True)
class Hits:
    """First intersections of rays with a mesh."""

    mask: Bool[np.ndarray, " P"]
    """Whether each ray hits the mesh; the other fields hold the rays that do."""
    points: Float[np.ndarray, "H 3"]
    """Points of intersection, world frame."""
    normals: Float[np.ndarray, "H 3"]
    """Vertex normals, interpolated; unit vectors, world frame."""
    triangles: Int[np.ndarray, " H"]
    """Index of the triangle that is hit."""


def mask_rays(
    masks: Bool[np.ndarray, "V H W"],
    intrinsics: Float[np.ndarray, "V 3 3"],
    c2w: Float[np.ndarray, "V 4 4"],
) -> Rays:
    """The rays through all pixels inside the masks, view by view, row by row."""
    pixels = pixel_grid(*masks.shape[1:])
    directions = [
        ray_directions(pixels[mask], np.linalg.inv(K)) @ pose[:3, :3].T
        for mask, K, pose in zip(masks, intrinsics, c2w, strict=True)
    ]
    return Rays(np.nonzero(masks)[0], c2w[:, :3, 3], np.concatenate(directions))


class RayCaster:
    """A triangle mesh prepared for ray casting.

    Embree finds the first triangle in float32, from origins close to the mesh; points on it are
    then computed in float64 (Moeller and Trumbore, 1997). Raises MissingBackendError without
    Embree.
    """

    def __init__(
        self, mesh: Mesh, centre: Float[np.ndarray, "3"] | None = None, standoff: float = 1.5
    ) -> None:
        """Rays start `standoff` radii of the mesh from `centre` (default: that of its bounding
        box), or at their origins if those are nearer."""
        if not has_embree:
            raise MissingBackendError("casting rays needs Embree: pip install embreex")
        vertices = mesh.vertices.astype(np.float64)
        self._faces = mesh.faces
        self._centre = (vertices.min(0) + vertices.max(0)) / 2 if centre is None else centre
        self._vertices = vertices - self._centre
        self._reach = standoff * np.linalg.norm(self._vertices, axis=1).max()
        self._mesh = trimesh.Trimesh(self._vertices, mesh.faces, process=False)

    @property
    def face_normals(self) -> Float[np.ndarray, "F 3"]:
        """Unit normals of the triangles."""
        return self._mesh.face_normals

    def first_triangles(
        self, origins: Float[np.ndarray, "N 3"], directions: Float[np.ndarray, "N 3"]
    ) -> Int[np.ndarray, " N"]:
        """The triangle that each ray hits first; -1 where it hits none."""
        triangles = [
            self._mesh.ray.intersects_first(
                self._approach(origins[part], directions[part])[0], directions[part]
            )
            for part in _parts(len(origins))
        ]
        return np.concatenate([np.zeros(0, int), *triangles])

    def intersect(
        self,
        origins: Float[np.ndarray, "H 3"],
        directions: Float[np.ndarray, "H 3"],
        triangles: Int[np.ndarray, " H"],
    ) -> tuple[Float[np.ndarray, "H 3"], Float[np.ndarray, "H 3"], Float[np.ndarray, " H"]]:
        """Where each ray meets the plane of its triangle, moved into the triangle: points, their
        barycentric weights, and distances along the rays."""
        points, weights = np.empty((2, len(origins), 3))
        distances = np.empty(len(origins))
        for part in _parts(len(origins)):
            direction = directions[part]
            near, start = self._approach(origins[part], direction)
            corners = self._vertices[self._faces[triangles[part]]]
            weights[part] = _barycentric(near, direction, *np.moveaxis(corners, 1, 0))
            local = np.einsum("hk,hki->hi", weights[part], corners)
            points[part] = local + self._centre
            distances[part] = start + np.einsum("hi,hi->h", local - near, direction)
        return points, weights, distances

    def _approach(
        self, origins: Float[np.ndarray, "C 3"], directions: Float[np.ndarray, "C 3"]
    ) -> tuple[Float[np.ndarray, "C 3"], Float[np.ndarray, " C"]]:
        """Points of the rays close to the mesh, relative to its centre, and their distances from
        the origins."""
        local = origins - self._centre
        start = np.maximum(np.linalg.norm(local, axis=1) - self._reach, 0)
        return local + start[:, None] * directions, start


def cast_rays(mesh: Mesh, rays: Rays) -> Hits:
    """First hits of the rays on the mesh."""
    caster = RayCaster(mesh)
    origins = rays.centres[rays.view]
    first = caster.first_triangles(origins, rays.directions)
    mask = first >= 0
    triangles = first[mask]
    points, weights, _ = caster.intersect(origins[mask], rays.directions[mask], triangles)
    return Hits(mask, points, interpolate_normals(mesh, triangles, weights), triangles)


def interpolate_normals(
    mesh: Mesh, triangles: Int[np.ndarray, " H"], weights: Float[np.ndarray, "H 3"]
) -> Float[np.ndarray, "H 3"]:
    """Unit normals at points of triangles, from those at the corners (angle-weighted means of the
    faces around); zero where the corners' cancel out."""
    at_vertices = vertex_normals(mesh)
    normals = np.empty_like(weights)
    for part in _parts(len(triangles)):
        mixed = np.einsum("hk,hki->hi", weights[part], at_vertices[mesh.faces[triangles[part]]])
        length = np.linalg.norm(mixed, axis=1, keepdims=True)
        normals[part] = np.divide(mixed, length, out=mixed, where=length > 0)
    return normals


def _parts(count: int) -> list[slice]:
    """Slices of `CHUNK` rows that make up `count`."""
    return [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _barycentric(
    origins: Float[np.ndarray, "H 3"],
    directions: Float[np.ndarray, "H 3"],
    a: Float[np.ndarray, "H 3"],
    b: Float[np.ndarray, "H 3"],
    c: Float[np.ndarray, "H 3"],
) -> Float[np.ndarray, "H 3"]:
    """Weights of the corners where rays meet the triangles' planes, moved into the triangles."""
    to_b, to_c, offset = b - a, c - a, origins - a
    across = np.cross(directions, to_c)
    determinant = np.einsum("ij,ij->i", to_b, across)
    determinant = np.where(determinant == 0, np.finfo(float).tiny, determinant)
    u = np.einsum("ij,ij->i", offset, across) / determinant
    v = np.einsum("ij,ij->i", directions, np.cross(offset, to_b)) / determinant
    weights = np.clip(np.stack([1 - u - v, u, v], 1), 0, 1)
    return weights / weights.sum(1, keepdims=True)
