"""`pmni fetch`: a dataset of the registry, downloaded, checked and unpacked."""

import argparse
import logging
from pathlib import Path

from pmni.data.fetch import fetch, read_dataset
from pmni.io.atomic import atomic_folder
from pmni.runtime.provenance import record

log = logging.getLogger("pmni.fetch")


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
    """Fetch the dataset; the folder appears whole or not at all.

    A download that breaks off stays beside the output folder as `.<dataset>-<archive>.part`.
    """
    dataset = read_dataset(args.registry, args.dataset)
    log.info("%s: %s", args.dataset, dataset.description)
    log.info("%s: licence: %s; cite: %s", args.dataset, dataset.licence, dataset.citation)
    partial = args.output.parent / f".{args.output.name}-{dataset.file_name}.part"
    with (
        atomic_folder(args.output) as folder,
        record("fetch", folder / "provenance.json", None, {}) as known,
    ):
        fetched = fetch(dataset, folder, partial, args.archive)
        known |= {"url": dataset.url, "sha256": fetched.sha256, "files": fetched.files}
        log.info("%s: %d files in %s", args.dataset, fetched.files, args.output)
    if args.archive is None:
        partial.unlink()
