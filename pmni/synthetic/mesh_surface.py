"""Triangle meshes as surfaces of synthetic scenes."""

from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Float

from pmni.errors import InputError
from pmni.geometry.mesh import Mesh
from pmni.geometry.ray_casting import RayCaster
from pmni.synthetic.shapes import normalised
from pmni.synthetic.tessellation import fit_to_sphere

_UPRIGHT = {
    "x": np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
    "y": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]),
    "z": np.eye(3),
}
"""Rotation that turns a file's up axis to z."""
_MIN_FACING = 1e-3
"""Smallest cosine between an interpolated normal and the direction to the camera."""


def load_mesh(path: Path, up: str, radius: float, subdivide: int = 0) -> Mesh:
    """A mesh file turned z up, centred at the origin and scaled into a sphere of `radius`.

    Duplicate vertices are merged; `subdivide` rounds of Loop subdivision follow. Vertex normals
    are the angle-weighted means of the faces around, so facets look smooth. Raises InputError for
    a file without a usable surface.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such mesh file")
    try:
        loaded = trimesh.load(path, force="mesh", process=False)
    except Exception as error:  # the library raises bare types for anything wrong with a file
        raise InputError(f"{path}: cannot be read as a mesh ({error})") from None
    if not isinstance(loaded, trimesh.Trimesh) or len(loaded.faces) == 0:
        raise InputError(f"{path}: has no triangles")
    if not np.isfinite(loaded.vertices).all():
        raise InputError(f"{path}: has vertices that are not finite")
    mesh = trimesh.Trimesh(loaded.vertices, loaded.faces, process=False)
    mesh.merge_vertices()
    mesh.update_faces(mesh.unique_faces() & (mesh.area_faces > 0))
    mesh.remove_unreferenced_vertices()
    if len(mesh.faces) == 0:
        raise InputError(f"{path}: all its triangles are degenerate")
    try:
        mesh = mesh.subdivide_loop(subdivide) if subdivide else mesh
    except ValueError as error:
        raise InputError(f"{path}: cannot be subdivided ({error}); set `subdivide` to 0") from None
    if mesh.is_watertight and mesh.volume < 0:
        mesh.invert()
    vertices = np.asarray(mesh.vertices, np.float64) @ _UPRIGHT[up].T
    centre, factor = fit_to_sphere(vertices, radius)
    normals = np.asarray(mesh.vertex_normals, np.float64) @ _UPRIGHT[up].T
    return Mesh((vertices - centre) * factor, np.asarray(mesh.faces, np.int64), None, normals)


class MeshSurface:
    """A triangle mesh about the origin that rays can hit."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._caster = RayCaster(mesh, np.zeros(3), standoff=2.0)

    def trace(
        self, origins: Float[np.ndarray, "N 3"], directions: Float[np.ndarray, "N 3"]
    ) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
        """Distances (NaN for a miss) and interpolated vertex normals (zero for a miss).

        Normals are on the side that is seen, also at silhouettes, where interpolated ones may
        turn away, and behind holes.
        """
        distances, normals = np.full(len(origins), np.nan), np.zeros((len(origins), 3))
        triangles = self._caster.first_triangles(origins, directions)
        hit = triangles >= 0
        rays, face = directions[hit], triangles[hit]
        _, weights, distances[hit] = self._caster.intersect(origins[hit], rays, face)

        smooth = np.einsum("ni,nij->nj", weights, self.mesh.normals[self.mesh.faces[face]])
        side = -np.sign((self._caster.face_normals[face] * rays).sum(1, keepdims=True))
        smooth = normalised(smooth * np.where(side == 0, 1, side))
        away = np.maximum((smooth * rays).sum(1, keepdims=True) + _MIN_FACING, 0)
        normals[hit] = normalised(smooth - away * rays)
        return distances, normals
