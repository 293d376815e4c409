"""A mesh as cameras see it: first hits of rays, their points and interpolated normals."""

from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int
from trimesh.ray import has_embree

from pmni.cameras import pixel_grid, ray_directions
from pmni.errors import MissingBackendError
from pmni.io.meshes import Mesh
from pmni.meshing.geometry import vertex_normals

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


def look(mesh: Mesh, rays: Rays) -> Seen:
    """First hits of the rays on the mesh.

    Embree finds the triangles in float32, from origins close to the object; points on them are
    then computed in float64 (Moeller and Trumbore, 1997).
    """
    if not has_embree:
        raise MissingBackendError("evaluation needs Embree for its rays: pip install embreex")
    vertices = mesh.vertices.astype(np.float64)
    centre = (vertices.min(0) + vertices.max(0)) / 2
    vertices = vertices - centre
    radius = np.linalg.norm(vertices, axis=1).max()
    centres = rays.centres - centre
    start = np.maximum(np.linalg.norm(centres, axis=1) - 1.5 * radius, 0)
    scene = trimesh.Trimesh(vertices, mesh.faces, process=False).ray
    smooth = vertex_normals(mesh)
    found = []
    for first in range(0, len(rays.view), CHUNK):
        directions = rays.directions[first : first + CHUNK]
        view = rays.view[first : first + CHUNK]
        origins = centres[view] + start[view, None] * directions
        triangle = scene.intersects_first(origins, directions)
        hit = triangle >= 0
        triangle = triangle[hit]
        corners = mesh.faces[triangle]
        abc = vertices[corners]
        weights = _barycentric(origins[hit], directions[hit], *np.moveaxis(abc, 1, 0))
        points = np.einsum("hk,hki->hi", weights, abc) + centre
        normals = np.einsum("hk,hki->hi", weights, smooth[corners])
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        np.divide(normals, length, out=normals, where=length > 0)
        found.append((hit, points, normals, triangle))
    return Seen(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


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
