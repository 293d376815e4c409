"""Meshes made small enough for a page: vertex clustering with quadrics, and a compact packing."""

import base64
import gzip
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse


@dataclass(frozen=True)
class SmallMesh:
    """A simplified mesh; `cluster` says into which of its vertices each original vertex went."""

    vertices: Float[np.ndarray, "N 3"]
    normals: Float[np.ndarray, "N 3"]
    """Unit normals averaged from the original mesh, which shade better than the coarse faces."""
    faces: Int[np.ndarray, "F 3"]
    cluster: Int[np.ndarray, "M"]


def simplify(
    vertices: Float[np.ndarray, "M 3"], faces: Int[np.ndarray, "G 3"], largest: int
) -> SmallMesh:
    """At most `largest` triangles, by merging the vertices in a cell that face the same way.

    A merged vertex lies where the quadric error of the faces around it is smallest (Garland and
    Heckbert, SIGGRAPH 1997, section 3.5; one clustering pass as in Lindstrom, SIGGRAPH 2000), held
    weakly to the mean of its members. Vertices that face differently stay apart, so that thin parts
    do not collapse. The connectivity has no cracks, as every vertex keeps its one place.
    """
    if len(faces) == 0:
        raise ValueError("the mesh has no faces")
    face_normals = np.cross(
        vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]
    )
    normals = _at_corners(faces, len(vertices)) @ face_normals
    cluster = np.arange(len(vertices))
    if len(faces) > largest:
        area = np.linalg.norm(face_normals, axis=1).sum() / 2
        cell = np.sqrt(2 * area / largest)
        for _ in range(20):
            cluster = _cluster(vertices, normals, float(cell))
            left = len(_merged_faces(faces, cluster))
            if left <= largest:
                break
            cell *= max(np.sqrt(left / largest), 1.02)
    small_faces = _merged_faces(faces, cluster)
    used, renumbered = np.unique(small_faces, return_inverse=True)
    kept = np.full(cluster.max() + 1, -1)
    kept[used] = np.arange(len(used))
    cluster = kept[cluster]
    placed = _place(vertices, faces, face_normals, cluster, len(used))
    merged = average(normals, cluster, len(used))
    merged /= np.maximum(np.linalg.norm(merged, axis=1, keepdims=True), 1e-12)
    return SmallMesh(placed, merged, renumbered.reshape(-1, 3), cluster)


def average(values: np.ndarray, cluster: Int[np.ndarray, "M"], count: int) -> np.ndarray:
    """Means of per-vertex values (M, ...) over each cluster, of those that are finite."""
    flat = values.reshape(len(values), -1)
    seen = (cluster >= 0) & np.isfinite(flat).all(1)
    total = _gather(flat[seen], cluster[seen], count)
    number = np.bincount(cluster[seen], minlength=count)[:, None]
    with np.errstate(invalid="ignore"):
        return (total / number).reshape(count, *values.shape[1:])


def _gather(values: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """Sums of rows that share an index."""
    return _at_corners(index[:, None], count) @ values


def _at_corners(faces: Int[np.ndarray, "G K"], count: int) -> sparse.csc_array:
    """The matrix that sums values of faces (G, ...) at each of their corners."""
    size, corners = faces.shape
    ends = np.arange(0, corners * size + 1, corners)
    return sparse.csc_array((np.ones(faces.size), faces.ravel(), ends), shape=(count, size))


def _cluster(vertices: np.ndarray, normals: np.ndarray, cell: float) -> np.ndarray:
    """Numbers of the groups of vertices that share a cell and a main direction, in order."""
    place = np.floor((vertices - vertices.min(0)) / cell).astype(np.int64)
    axis = np.abs(normals).argmax(1)
    side = np.take_along_axis(normals, axis[:, None], 1)[:, 0] < 0
    size = place.max(0) + 1
    key = ((place[:, 0] * size[1] + place[:, 1]) * size[2] + place[:, 2]) * 6 + axis * 2 + side
    return np.unique(key, return_inverse=True)[1]


def _merged_faces(faces: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Faces between clusters, each once, without those that have collapsed."""
    merged = cluster[faces]
    a, b, c = merged.T
    merged = merged[(a != b) & (b != c) & (c != a)]
    first = merged.argmin(1)
    turned = np.take_along_axis(merged, (first[:, None] + np.arange(3)) % 3, 1)
    numbers = (cluster.max() + 1,) * 3
    once = np.unique(np.ravel_multi_index(tuple(turned.T), numbers))
    return np.column_stack(np.unravel_index(once, numbers))


def _place(
    vertices: np.ndarray,
    faces: np.ndarray,
    face_normals: np.ndarray,
    cluster: np.ndarray,
    count: int,
) -> np.ndarray:
    """The point of each cluster that minimises sum area (n.x - d)^2 over the faces at it."""
    mean = average(vertices, cluster, count)
    length = np.linalg.norm(face_normals, axis=1, keepdims=True)
    n = face_normals / np.maximum(length, 1e-30)
    a, b, c = (vertices[corner] for corner in faces.T)
    d = np.einsum("fi,fi->f", n, (a + b + c) / 3)
    moments = np.einsum("fi,fj->fij", length * n, np.column_stack([n, d])).reshape(-1, 12)
    owner = np.where(cluster < 0, count, cluster)[faces]  # what has collapsed comes last
    sums = (_at_corners(owner, count + 1) @ moments)[:count].reshape(-1, 3, 4)
    A = sums[..., :3].copy()
    # relative to the cluster's mean, where the numbers are small
    offset = sums[..., 3:] - A @ mean[..., None]
    A += 0.03 * np.trace(A, axis1=1, axis2=2)[:, None, None] * np.eye(3) + 1e-30 * np.eye(3)
    return mean + np.linalg.solve(A, offset)[..., 0]


POSITION_STEPS = 2**14 - 1
VALUE_STEPS = 2**10 - 1


def pack(
    vertices: Float[np.ndarray, "N 3"],
    normals: Float[np.ndarray, "N 3"],
    faces: Int[np.ndarray, "F 3"],
    values: Float[np.ndarray, "N"] | None,
) -> tuple[dict[str, Any], str]:
    """A header, and columns of small integers in base64 of gzip, which `viewer.js` unpacks.

    Columns: corners (a, b - a, c - b; a as differences between faces), then, as differences between
    vertices, positions in steps of the box, normals in 1/127, and values in steps of their range
    (-1 = none; only if given).
    """
    lower, upper = vertices.min(0), vertices.max(0)
    span = np.maximum(upper - lower, 1e-12)
    a, b, c = faces.T
    columns = [np.diff(a, prepend=0), b - a, c - b]
    columns += _differences((vertices - lower) / span * POSITION_STEPS)
    columns += _differences(normals * 127)
    header: dict[str, Any] = {
        "vertices": len(vertices),
        "faces": len(faces),
        "lower": lower.tolist(),
        "upper": upper.tolist(),
        "values": None,
    }
    if values is not None and np.isfinite(values).any():
        seen = np.isfinite(values)
        low, high = float(values[seen].min()), float(values[seen].max())
        scaled = np.where(seen, values - low, 0) / max(high - low, 1e-12) * VALUE_STEPS
        columns += _differences(np.where(seen, scaled, -1)[:, None])
        header["values"] = [low, high]
    content = b"".join(_byte_planes(column) for column in columns)
    return header, base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def _differences(rows: np.ndarray) -> list[np.ndarray]:
    """Columns of rounded values, each as differences from the row before."""
    return list(np.diff(np.round(rows).astype(np.int64), axis=0, prepend=0).T)


def _byte_planes(column: np.ndarray) -> bytes:
    """Integers under 2^23 in size: their zigzag code, all low bytes first, which gzip likes."""
    zigzag = np.where(column < 0, -2 * column - 1, 2 * column)
    return b"".join((zigzag >> shift & 255).astype(np.uint8).tobytes() for shift in (0, 8, 16))
