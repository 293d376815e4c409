"""The stage `fetch`: a dataset named in the registry is downloaded, checked and unpacked."""

import argparse
import logging
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

from pydantic import Field

from pmni.config.base import Settings, read_yaml
from pmni.errors import InputError
from pmni.io.archives import ArchiveKind, unpack
from pmni.io.atomic import atomic_folder
from pmni.io.disk import readable_size
from pmni.io.download import download, fetch_text
from pmni.io.hashing import sha256
from pmni.runtime.provenance import record

log = logging.getLogger("pmni.fetch")


class Dataset(Settings):
    """An entry of the registry."""

    description: str
    """What it is."""

    url: str
    """Where the archive is."""

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
    """How each object's folder is laid out."""

    licence: str
    """Under which terms it is published."""

    citation: str
    """What to cite."""

    @property
    def file_name(self) -> str:
        """The archive's name."""
        return unquote(Path(urlparse(self.url).path).name)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pmni fetch`."""
    parser.add_argument(
        "--registry", type=Path, default=Path("resources/registry.yaml"), help="known datasets"
    )
    parser.add_argument("--dataset", required=True, help="the dataset's name in the registry")
    parser.add_argument(
        "--archive", type=Path, help="an archive downloaded before; it is checked all the same"
    )
    parser.add_argument("--output", required=True, type=Path, help="the folder to write")


def run(args: argparse.Namespace) -> None:
    """Download (or take `--archive`), check and unpack; the folder appears whole or not at all.

    A download that breaks off stays beside the output folder as `.<dataset>-<archive>.part`.
    """
    dataset = read_dataset(args.registry, args.dataset)
    log.info("%s: %s", args.dataset, dataset.description)
    log.info("%s: licence: %s; cite: %s", args.dataset, dataset.licence, dataset.citation)
    with (
        atomic_folder(args.output) as folder,
        record("fetch", folder / "provenance.json", None, {}) as known,
    ):
        archive = args.archive
        if archive is None:
            archive = args.output.parent / f".{args.output.name}-{dataset.file_name}.part"
            download(dataset.url, archive, dataset.size)
        elif not archive.is_file():
            raise InputError(f"{archive}: no such file")
        try:
            digest = verify(archive, dataset)
        except ArchiveMismatchError:
            if args.archive is None:
                archive.unlink()
            raise
        count = unpack(archive, folder, dataset.archive, dataset.root)
        known |= {"url": dataset.url, "sha256": digest, "files": count}
        log.info("%s: %d files in %s", args.dataset, count, args.output)
    if args.archive is None:
        archive.unlink()


def read_dataset(registry: Path, name: str) -> Dataset:
    """The registry's entry for `name`. Raises InputError."""
    entries = read_yaml(registry)
    if name not in entries:
        raise InputError(f"unknown dataset '{name}': {registry} has {', '.join(sorted(entries))}")
    return Dataset.parse(entries[name], f"{registry}: {name}")


class ArchiveMismatchError(InputError):
    """An archive that is not the one in the registry."""


def verify(archive: Path, dataset: Dataset) -> str:
    """Check size and SHA-256; returns the latter. Raises ArchiveMismatchError, InputError."""
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
    """From the registry, or from the dataset's file of checksums, beside `archive` or online."""
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
