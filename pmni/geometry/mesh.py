"""Triangle meshes: areas, normals, volume, open edges."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Mesh:
    """Triangles whose corners run counter-clockwise seen from outside."""

    vertices: Float[np.ndarray, "N 3"]
    faces: Int[np.ndarray, "F 3"]
    observed: Bool[np.ndarray, " N"] | None = None
    """Whether a camera has observed each vertex; None: unknown."""
    exact_normals: Float[np.ndarray, "N 3"] | None = None
    """Unit outward normals at the vertices, if a formula or a file gives them."""

    @cached_property
    def normals(self) -> Float[np.ndarray, "N 3"]:
        """Unit outward normals at the vertices: the exact ones, or those of the faces around."""
        return vertex_normals(self) if self.exact_normals is None else self.exact_normals

    def centred(self, centre: Float[np.ndarray, "3"], factor: float) -> "Mesh":
        """The mesh with `centre` moved to the origin, then scaled by `factor`."""
        return replace(self, vertices=(self.vertices - centre) * factor)


def area_vectors(mesh: Mesh) -> Float[np.ndarray, "F 3"]:
    """Outward normals of the faces, as long as their areas."""
    a, b, c = _corners(mesh)
    return np.cross(b - a, c - a) / 2


def signed_volume(mesh: Mesh) -> float:
    """The enclosed volume; negative when the faces of a closed mesh are inside out."""
    a, b, c = _corners(mesh)
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def vertex_normals(mesh: Mesh) -> Float[np.ndarray, "N 3"]:
    """Unit normals, faces weighted by their angle at the vertex (Thuermer and Wuethrich, 1998).

    Zero at vertices without a face of positive area.
    """
    a, b, c = _corners(mesh)
    normals = _unit(area_vectors(mesh))
    sides = [_unit(b - a), _unit(c - b), _unit(a - c)]
    total = np.zeros((len(mesh.vertices), 3))
    for corner in range(3):
        ahead, arriving = sides[corner], sides[corner - 1]
        # accurate for thin angles, unlike the arc cosine
        angle = 2 * np.arctan2(
            np.linalg.norm(ahead + arriving, axis=1), np.linalg.norm(ahead - arriving, axis=1)
        )
        index = mesh.faces[:, corner]
        for axis in range(3):
            total[:, axis] += np.bincount(index, angle * normals[:, axis], len(total))
    return _unit(total)


def open_edges(mesh: Mesh) -> Int[np.ndarray, "E 2"]:
    """Edges that no second face runs along in the opposite direction; none if watertight."""
    directed = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    count = len(mesh.vertices)
    forward = directed[:, 0] * count + directed[:, 1]
    backward = directed[:, 1] * count + directed[:, 0]
    ordered = np.sort(forward)
    if (np.diff(ordered) > 0).all() and np.array_equal(ordered, np.sort(backward)):
        return directed[:0]
    first = np.searchsorted(ordered, backward, side="left")
    last = np.searchsorted(ordered, backward, side="right")
    return directed[last - first != 1]


def _corners(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    vertices = mesh.vertices.astype(np.float64)
    return vertices[mesh.faces[:, 0]], vertices[mesh.faces[:, 1]], vertices[mesh.faces[:, 2]]


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
