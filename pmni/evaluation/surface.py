"""A mesh as cameras see it: first hits of rays, their points and interpolated normals."""

from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int
from trimesh.ray import has_embree

from pmni.errors import MissingBackendError
from pmni.geometry.cameras import pixel_grid, ray_directions
from pmni.geometry.mesh import Mesh, vertex_normals

CHUNK = 1 << 15
"""Rays whose arrays stay in the processor's cache."""


@dataclass(frozen=True)
class Rays:
    """The rays through all pixels inside the masks, view by view, row by row."""

    view: Int[np.ndarray, "P"]
    centres: Float[np.ndarray, "V 3"]
    """Camera centres."""
    directions: Float[np.ndarray, "P 3"]
    """Unit vectors, world frame."""


@dataclass(frozen=True)
class Seen:
    """What rays hit first."""

    hit: Bool[np.ndarray, "P"]
    points: Float[np.ndarray, "H 3"]
    normals: Float[np.ndarray, "H 3"]
    """Vertex normals, interpolated; unit, world frame."""
    triangle: Int[np.ndarray, "H"]


def mask_rays(
    masks: Bool[np.ndarray, "V H W"],
    intrinsics: Float[np.ndarray, "V 3 3"],
    c2w: Float[np.ndarray, "V 4 4"],
) -> Rays:
    """The rays of every pixel inside the masks."""
    pixels = pixel_grid(*masks.shape[1:])
    directions = [
        ray_directions(pixels[mask], np.linalg.inv(K)) @ pose[:3, :3].T
        for mask, K, pose in zip(masks, intrinsics, c2w, strict=True)
    ]
    return Rays(np.nonzero(masks)[0], c2w[:, :3, 3], np.concatenate(directions))


class Target:
    """A mesh that rays are aimed at.

    Embree finds the triangles in float32, from origins close to the object; points on them are
    then computed in float64 (Moeller and Trumbore, 1997).
    """

    def __init__(self, mesh: Mesh) -> None:
        if not has_embree:
            raise MissingBackendError("evaluation needs Embree for its rays: pip install embreex")
        vertices = mesh.vertices.astype(np.float64)
        self._faces = mesh.faces
        self._centre = (vertices.min(0) + vertices.max(0)) / 2
        self._vertices = vertices - self._centre
        self._radius = np.linalg.norm(self._vertices, axis=1).max()
        self._scene = trimesh.Trimesh(self._vertices, mesh.faces, process=False).ray

    def first(self, rays: Rays) -> Int[np.ndarray, "P"]:
        """The triangle that each ray hits first; -1: none."""
        every = np.arange(len(rays.view))
        found = [self._scene.intersects_first(*self._near(rays, part)) for part in _parts(every)]
        return np.concatenate(found)

    def meet(
        self, rays: Rays, chosen: Int[np.ndarray, "H"], triangle: Int[np.ndarray, "H"]
    ) -> tuple[Float[np.ndarray, "H 3"], Float[np.ndarray, "H 3"]]:
        """Where some rays meet a triangle each: points, and the weights of its corners there."""
        points, weights = np.empty((2, len(chosen), 3))
        for part in _parts(np.arange(len(chosen))):
            corners = self._vertices[self._faces[triangle[part]]]
            near = self._near(rays, chosen[part])
            weights[part] = _barycentric(*near, *np.moveaxis(corners, 1, 0))
            points[part] = np.einsum("hk,hki->hi", weights[part], corners) + self._centre
        return points, weights

    def _near(
        self, rays: Rays, chosen: Int[np.ndarray, "C"]
    ) -> tuple[Float[np.ndarray, "C 3"], Float[np.ndarray, "C 3"]]:
        """Origins of some rays, relative to the object's centre and close to it; directions."""
        centres = rays.centres - self._centre
        start = np.maximum(np.linalg.norm(centres, axis=1) - 1.5 * self._radius, 0)
        view, directions = rays.view[chosen], rays.directions[chosen]
        return centres[view] + start[view, None] * directions, directions


def look(mesh: Mesh, rays: Rays) -> Seen:
    """First hits of the rays on the mesh."""
    target = Target(mesh)
    first = target.first(rays)
    chosen = np.flatnonzero(first >= 0)
    triangle = first[chosen]
    points, weights = target.meet(rays, chosen, triangle)
    smooth = vertex_normals(mesh)
    normals = np.empty_like(points)
    for part in _parts(np.arange(len(chosen))):
        mixed = np.einsum("hk,hki->hi", weights[part], smooth[mesh.faces[triangle[part]]])
        length = np.linalg.norm(mixed, axis=1, keepdims=True)
        normals[part] = np.divide(mixed, length, out=mixed, where=length > 0)
    return Seen(first >= 0, points, normals, triangle)


def _parts(rows: Int[np.ndarray, "N"]) -> list[Int[np.ndarray, "C"]]:
    """Runs of `CHUNK` rows."""
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]


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
