"""Triangle meshes on disk: binary PLY, written and read with NumPy alone."""

from pathlib import Path

import numpy as np

from pmni.errors import InputError
from pmni.geometry.mesh import Mesh
from pmni.io.atomic import atomic_file

_HEADER = (
    "ply\nformat binary_little_endian 1.0\ncomment pmni\n"
    "element vertex {vertices}\nproperty float x\nproperty float y\nproperty float z\n"
    "{observed}element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
)
"""Header of the files."""
_OBSERVED = "property uchar observed\n"
"""Line of the header of meshes whose vertices say whether a camera observes them."""
_POSITION = [("position", "<f4", 3)]
"""Fields of a vertex."""
_FACE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])
"""A triangle."""


def write_ply(path: Path, mesh: Mesh) -> None:
    """Write a mesh as binary PLY (float32 positions, `observed` as 0 or 1), atomically."""
    faces = np.empty(len(mesh.faces), _FACE)
    faces["count"] = 3
    faces["corners"] = mesh.faces
    has_observed = mesh.observed is not None
    vertices = np.empty(len(mesh.vertices), _vertex(has_observed))
    vertices["position"] = mesh.vertices
    if has_observed:
        vertices["observed"] = mesh.observed
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(_header(len(vertices), len(faces), has_observed))
        file.write(vertices.tobytes())
        file.write(faces.tobytes())


def read_ply(path: Path) -> Mesh:
    """Read a mesh written by `write_ply`. Raises InputError naming the file."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    end = content.find(b"end_header\n") + len(b"end_header\n")
    words = content[:end].split()
    counts = [int(words[i + 2]) for i, word in enumerate(words[:-2]) if word == b"element"]
    has_observed = b"observed" in words
    if len(counts) != 2 or content[:end] != _header(counts[0], counts[1], has_observed):
        raise InputError(f"{path}: not a mesh written by `pmni mesh`")
    split = end + counts[0] * _vertex(has_observed).itemsize
    if len(content) != split + counts[1] * _FACE.itemsize:
        raise InputError(f"{path}: truncated; run `pmni mesh` again")
    vertices = np.frombuffer(content[end:split], _vertex(has_observed))
    corners = np.frombuffer(content[split:], _FACE)["corners"]
    observed = vertices["observed"] > 0 if has_observed else None
    return Mesh(vertices["position"].astype(np.float32), corners.astype(np.int32), observed)


def _vertex(observed: bool) -> np.dtype:
    return np.dtype([*_POSITION, ("observed", "u1")] if observed else _POSITION)


def _header(vertices: int, faces: int, observed: bool) -> bytes:
    words = {"vertices": vertices, "faces": faces, "observed": _OBSERVED if observed else ""}
    return _HEADER.format(**words).encode("ascii")
