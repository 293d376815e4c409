"""Meshes made small enough for a page: fewer faces, and a compact packing."""

import base64
import gzip
from dataclasses import dataclass
from threading import Lock
from typing import Any

import fast_simplification
import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

SIMPLIFICATION_LOCK = Lock()
"""Lock of fast_simplification, which keeps its mesh in global variables between calls."""


@dataclass(frozen=True)
class SmallMesh:
    """A simplified mesh; `cluster` says into which of its vertices each original vertex went."""

    vertices: Float[np.ndarray, "N 3"]
    normals: Float[np.ndarray, "N 3"]
    """Unit normals averaged from the original mesh, which shade better than the coarse faces."""
    faces: Int[np.ndarray, "F 3"]
    cluster: Int[np.ndarray, " M"]


def simplify(
    vertices: Float[np.ndarray, "M 3"], faces: Int[np.ndarray, "G 3"], largest: int
) -> SmallMesh:
    """No more than about `largest` triangles, by collapsing edges (Garland and Heckbert, SIGGRAPH
    1997). Raises ValueError for a mesh without faces."""
    if len(faces) == 0:
        raise ValueError("the mesh has no faces")
    a, b, c = (vertices[corner] for corner in faces.T)
    normals = _at_corners(faces, len(vertices)) @ np.cross(b - a, c - a)
    placed, small_faces, cluster = vertices, faces, np.arange(len(vertices))
    if len(faces) > largest:
        with SIMPLIFICATION_LOCK:
            collapses = fast_simplification.simplify(
                vertices, faces, target_count=largest, return_collapses=True
            )[2]
            placed, small_faces, cluster = fast_simplification.replay_simplification(
                vertices, faces, collapses
            )
    merged = average(normals, cluster, len(placed))
    merged /= np.maximum(np.linalg.norm(merged, axis=1, keepdims=True), 1e-12)
    return SmallMesh(placed, merged, small_faces, cluster)


def average(values: np.ndarray, cluster: Int[np.ndarray, " M"], count: int) -> np.ndarray:
    """Means of per-vertex values (M, ...) over each cluster, of those that are finite."""
    flat = values.reshape(len(values), -1)
    seen = (cluster >= 0) & np.isfinite(flat).all(1)
    total = _at_corners(cluster[seen, None], count) @ flat[seen]
    number = np.bincount(cluster[seen], minlength=count)[:, None]
    with np.errstate(invalid="ignore"):
        return (total / number).reshape(count, *values.shape[1:])


def _at_corners(faces: Int[np.ndarray, "G K"], count: int) -> sparse.csc_array:
    """The matrix that sums values of faces (G, ...) at each of their corners."""
    size, corners = faces.shape
    ends = np.arange(0, corners * size + 1, corners)
    return sparse.csc_array((np.ones(faces.size), faces.ravel(), ends), shape=(count, size))


POSITION_STEPS = 2**14 - 1
"""Steps of a position along each side of the bounding box; `unpack.js` has the same number."""

VALUE_STEPS = 2**10 - 1
"""Steps of a value over its range; `unpack.js` has the same number."""


def pack(
    vertices: Float[np.ndarray, "N 3"],
    normals: Float[np.ndarray, "N 3"],
    faces: Int[np.ndarray, "F 3"],
    values: Float[np.ndarray, " N"] | None,
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
