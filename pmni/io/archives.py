"""Safe unpacking of archives from untrusted sources."""

import functools
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from pmni.errors import InputError
from pmni.io.disk import check_space, report_full_disk

ArchiveKind = Literal["zip", "tar"]

_DAMAGE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    RuntimeError,  # encrypted members
    NotImplementedError,  # unknown compression
)
"""Errors of the libraries for damaged archives."""


def unpack(archive: Path, folder: Path, kind: ArchiveKind, root: str = "") -> int:
    """Unpack the files beneath `root` of an archive into `folder`; returns how many.

    All members are checked before the first is written. Raises InputError for a damaged archive,
    for absolute paths, paths with '..', links and special files anywhere in it, for files that
    are there twice, when nothing lies beneath `root`, and when the disk is full.
    """
    opened = _zip_members if kind == "zip" else _tar_members
    with report_full_disk(folder):
        try:
            with opened(archive) as members:
                wanted = [(member, _beneath(root, member.path)) for member in members]
                check_space(folder, sum(m.size for m, path in wanted if path), "unpacking")
                written = 0
                for member, path in wanted:
                    if path is None:
                        continue
                    target = folder / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    source = member.open()
                    assert source is not None  # regular files only
                    with source, target.open("xb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)
                    written += 1
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise InputError(f"{archive}: holds {Path(error.filename).name} twice") from None
        except _DAMAGE_ERRORS as error:
            raise InputError(f"{archive}: not a {kind} archive, or damaged ({error})") from None
    if not written:
        raise InputError(f"{archive}: holds nothing beneath '{root}'")
    return written


@dataclass(frozen=True)
class _Member:
    """A regular file in an archive."""

    path: PurePosixPath
    size: int
    open: Callable[[], IO[bytes] | None]


@contextmanager
def _zip_members(path: Path) -> Iterator[list[_Member]]:
    with zipfile.ZipFile(path) as archive:
        members: list[_Member] = []
        for info in archive.infolist():
            member = _safe(path, info.orig_filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise InputError(f"{path}: holds a link or special file ({info.filename}); refused")
            if not info.is_dir():
                opening = functools.partial(archive.open, info)
                members.append(_Member(member, info.file_size, opening))
        yield members


@contextmanager
def _tar_members(path: Path) -> Iterator[list[_Member]]:
    with tarfile.open(path, "r:*") as archive:
        members: list[_Member] = []
        for info in archive.getmembers():
            member = _safe(path, info.name)
            if not (info.isfile() or info.isdir()):
                raise InputError(f"{path}: holds a link or special file ({info.name}); refused")
            if info.isfile():
                opening = functools.partial(archive.extractfile, info)
                members.append(_Member(member, info.size, opening))
        yield members


def _safe(archive: Path, name: str) -> PurePosixPath:
    """The member's path, when it stays in the folder."""
    path = PurePosixPath(name)
    unsafe = path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name
    if unsafe or "\0" in name:
        raise InputError(f"{archive}: holds a path that leads out of its folder ({name}); refused")
    return path


def _beneath(root: str, path: PurePosixPath) -> PurePosixPath | None:
    """`path` as seen from `root`; None when it lies elsewhere."""
    if not path.is_relative_to(root) or not path.relative_to(root).parts:
        return None
    return path.relative_to(root)
