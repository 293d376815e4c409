"""Datasets of the registry: downloaded, checked and unpacked."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from pydantic import Field

from pmni.config.base import Settings, read_yaml
from pmni.errors import InputError
from pmni.io.archives import ArchiveKind, unpack
from pmni.io.disk import readable_size
from pmni.io.download import download, fetch_text
from pmni.io.hashing import sha256

log = logging.getLogger("pmni.fetch")


class Dataset(Settings):
    """An entry of the registry."""

    description: str
    """Description of the dataset."""

    url: str
    """Address of the archive."""

    archive: ArchiveKind
    """`zip`, or `tar` with any compression."""

    root: str = ""
    """The folder in the archive whose contents are wanted; empty takes everything."""

    size: int | None = Field(None, gt=0)
    """Size of the archive in bytes; None when it is not known."""

    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """SHA-256 of the archive; None when only `sha256sums_url` tells it."""

    sha256sums_url: str | None = None
    """A file in the format of `sha256sum` that names the archive."""

    layout: str
    """Layout of each object's folder: a name in READERS."""

    licence: str
    """Under which terms it is published."""

    citation: str
    """Publication to cite."""

    @property
    def file_name(self) -> str:
        """The archive's name."""
        return unquote(Path(urlparse(self.url).path).name)


def read_dataset(registry: Path, name: str) -> Dataset:
    """The registry's entry for `name`. Raises InputError."""
    entries = read_yaml(registry)
    if name not in entries:
        raise InputError(f"unknown dataset '{name}': {registry} has {', '.join(sorted(entries))}")
    return Dataset.parse(entries[name], f"{registry}: {name}")


class ArchiveMismatchError(InputError):
    """An archive that is not the one in the registry."""


def verify(archive: Path, dataset: Dataset) -> str:
    """SHA-256 of an archive, after a check against the registry. Raises ArchiveMismatchError."""
    size = archive.stat().st_size
    if dataset.size is not None and size != dataset.size:
        raise ArchiveMismatchError(
            f"{archive}: has {size} bytes, but the registry says {dataset.size}; fetch it again"
        )
    expected = expected_sha256(archive, dataset)
    digest = sha256(archive)
    log.info("%s: %s, sha256 %s", archive.name, readable_size(size), digest)
    if expected is None:
        log.warning("%s: the registry knows no checksum, so this was not verified", archive.name)
    elif digest != expected:
        raise ArchiveMismatchError(
            f"{archive}: its sha256 is {digest}, but must be {expected}; fetch it again"
        )
    return digest


def expected_sha256(archive: Path, dataset: Dataset) -> str | None:
    """SHA-256 in the registry or in the dataset's file of checksums, beside `archive` or online."""
    if dataset.sha256 is not None or dataset.sha256sums_url is None:
        return dataset.sha256
    beside = archive.with_name(Path(urlparse(dataset.sha256sums_url).path).name)
    if beside.is_file():
        source, text = str(beside), beside.read_text(encoding="utf-8", errors="replace")
    else:
        source = dataset.sha256sums_url
        try:
            text = fetch_text(source)
        except InputError as error:
            raise InputError(f"{error}; put {beside.name} beside the archive instead") from None
    for line in text.splitlines():
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line.strip())
        if match and Path(match[2]).name == dataset.file_name:
            return match[1].lower()
    raise InputError(f"{source}: holds no SHA-256 of {dataset.file_name}")


@dataclass(frozen=True)
class Fetched:
    """An unpacked dataset."""

    sha256: str
    """Hexadecimal digest of the archive."""
    files: int
    """Number of files unpacked."""


def fetch(dataset: Dataset, folder: Path, partial: Path, archive: Path | None = None) -> Fetched:
    """Download (or take `archive`), check and unpack a dataset into `folder`.

    A download is kept in `partial`, from which the next run goes on. Raises InputError, and
    ArchiveMismatchError for an archive that is not the registry's; a download of that kind is
    deleted.
    """
    source = archive or partial
    if archive is None:
        download(dataset.url, partial, dataset.size)
    elif not archive.is_file():
        raise InputError(f"{archive}: no such file")
    try:
        digest = verify(source, dataset)
    except ArchiveMismatchError:
        if archive is None:
            partial.unlink()
        raise
    return Fetched(digest, unpack(source, folder, dataset.archive, dataset.root))
