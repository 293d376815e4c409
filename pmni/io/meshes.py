"""Triangle meshes on disk: binary PLY, written and read with NumPy alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from pmni.errors import InputError
from pmni.io.atomic import atomic_file


@dataclass(frozen=True)
class Mesh:
    """Triangles; corners counter-clockwise seen from outside."""

    vertices: Float[np.ndarray, "N 3"]
    faces: Int[np.ndarray, "F 3"]


_HEADER = (
    "ply\nformat binary_little_endian 1.0\ncomment pmni\n"
    "element vertex {vertices}\nproperty float x\nproperty float y\nproperty float z\n"
    "element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
)
_VERTEX = np.dtype(("<f4", 3))
_FACE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])


def write_ply(path: Path, mesh: Mesh) -> None:
    """Write a mesh as binary PLY (float32 positions), atomically."""
    faces = np.empty(len(mesh.faces), _FACE)
    faces["count"] = 3
    faces["corners"] = mesh.faces
    header = _HEADER.format(vertices=len(mesh.vertices), faces=len(mesh.faces))
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(header.encode("ascii"))
        file.write(mesh.vertices.astype(_VERTEX.base).tobytes())
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
    expected = _HEADER.format(vertices=counts[0], faces=counts[1]) if len(counts) == 2 else None
    if expected is None or content[:end] != expected.encode("ascii"):
        raise InputError(f"{path}: not a mesh written by `pmni mesh`")
    split = end + counts[0] * _VERTEX.itemsize
    if len(content) != split + counts[1] * _FACE.itemsize:
        raise InputError(f"{path}: truncated; run `pmni mesh` again")
    vertices = np.frombuffer(content[end:split], "<f4").reshape(-1, 3)
    corners = np.frombuffer(content[split:], _FACE)["corners"]
    return Mesh(vertices.astype(np.float32), corners.astype(np.int32))
