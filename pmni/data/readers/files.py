"""Finding and reading a dataset's files: views by their identifiers, intrinsics, meshes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pmni.errors import InputError
from pmni.geometry.mesh import Mesh

Key = int | str
"""Identifier of a view: the number in its file name, or the name itself."""

_LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)


def view_keys(names: Sequence[str]) -> list[Key]:
    """The key of each name: a number where all names differ in one number only, else the name.

    `01` and `1` have the same key; so do `mask_01` among `mask_00, mask_02` and `01`.
    """
    matches = [_LAST_NUMBER.fullmatch(name) for name in names]
    around = {(match[1], match[3]) for match in matches if match}
    if all(matches) and len(around) == 1:
        return [int(match[2]) for match in matches if match]
    return [int(name) if name.isdecimal() else name for name in names]


def by_view(paths: Iterable[Path]) -> dict[Key, Path]:
    """Paths by view key, in natural order. Raises InputError when a view is there twice."""
    paths = sorted(paths)
    views: dict[Key, Path] = {}
    for key, path in zip(view_keys([path.stem for path in paths]), paths, strict=True):
        if key in views:
            raise InputError(f"{path}: view {key} is there twice (also as {views[key].name})")
        views[key] = path
    return dict(sorted(views.items(), key=lambda item: _natural(item[0])))


def _natural(key: Key) -> list[tuple[int, int, str]]:
    """A sort key under which `v2` comes before `v10`."""
    parts = re.findall(r"\d+|\D+", str(key))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def list_views(folder: Path, suffixes: Sequence[str], what: str) -> dict[Key, Path]:
    """The files of `folder` by view key. Of several kinds only the first of `suffixes` counts.

    `what` names the contents in messages. Raises InputError when there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder ({what} expected there)")
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for suffix in suffixes:
        if chosen := [path for path in files if path.suffix.lower() == suffix]:
            return by_view(chosen)
    raise InputError(f"{folder}: holds no {what} ({', '.join(suffixes)})")


def find_folder(folder: Path, names: Sequence[str]) -> Path:
    """The first of the subfolders `names` that exists, else the first."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder / names[0])


def find_file(folder: Path, name: str) -> Path | None:
    """The file of that name, upper and lower case ignored; None without one."""
    same = (path for path in folder.iterdir() if path.name.lower() == name.lower())
    return min(same, default=None)


def find_ground_truth(folder: Path, name: str) -> Path | None:
    """A file of reference poses or the mesh: in `folder`, else in its subfolder `gt`.

    Files in `gt` are for evaluation only.
    """
    if found := find_file(folder, name):
        return found
    return find_file(folder / "gt", name) if (folder / "gt").is_dir() else None


def check_same_views(
    views: Mapping[Key, Path], others: Mapping[Key, object], other: str, what: str
) -> None:
    """`others` has the same views as `views`. Raises InputError naming the first that differs."""
    for key, path in views.items():
        if key not in others:
            raise InputError(f"{other}: view {path.stem}: no {what} for {path}")
    for key in others:
        if key not in views:
            folder = next(iter(views.values())).parent
            raise InputError(
                f"{folder}: view {key}: missing, or a file of another kind than the others, but "
                f"{other} has its {what}"
            )


def read_intrinsics(path: Path) -> Float[np.ndarray, "3 3"]:
    """A text file of 3 x 3 numbers."""
    try:
        K = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError:
        raise InputError(f"{path}: must hold 3 rows of 3 numbers") from None
    if K.shape != (3, 3):
        raise InputError(f"{path}: must hold 3 rows of 3 numbers, not {K.shape}")
    return K


def read_mesh(path: Path) -> Mesh:
    """Vertices (float64) and triangles of a mesh file, as they are. Raises InputError."""
    import trimesh

    try:
        mesh: Any = trimesh.load(path, force="mesh", process=False)
        vertices, faces = np.array(mesh.vertices, np.float64), np.array(mesh.faces, np.int64)
    except Exception:  # the library raises bare types for anything wrong with a file
        raise InputError(f"{path}: not a mesh, or truncated or damaged") from None
    if not len(faces) or not np.isfinite(vertices).all():
        raise InputError(f"{path}: the mesh has no triangles, or vertices that are not finite")
    return Mesh(vertices, faces)
