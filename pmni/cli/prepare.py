"""The stage `prepare`: a dataset folder becomes a checked capture in the normalised world."""

import argparse
from pathlib import Path

from pmni.config.base import settings_from_argument
from pmni.config.capture import PrepareSettings
from pmni.config.extensions import READERS
from pmni.data.capture import save_capture
from pmni.data.preview import write_preview
from pmni.data.resize import resized
from pmni.io.atomic import atomic_folder
from pmni.io.disk import report_full_disk
from pmni.runtime.layout import CaptureFolder
from pmni.runtime.provenance import record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pmni prepare`."""
    parser.add_argument("--name", required=True, help="the object's name")
    parser.add_argument(
        "--layout", required=True, choices=READERS.names(), help="how the folder is laid out"
    )
    parser.add_argument("--path", required=True, type=Path, help="the object's folder")
    parser.add_argument(
        "--normals",
        required=True,
        help="the normal set: a subfolder, such as normal_camera_space_sdmunips; "
        "for diligent_mv the stem of the files in each view's folder, such as Normal_gt",
    )
    parser.add_argument("--settings", help="YAML file or inline JSON (PrepareSettings)")
    parser.add_argument("--output", required=True, type=Path, help="the folder to write")


def run(args: argparse.Namespace) -> None:
    """Read, check and write; the output folder appears whole or not at all."""
    settings = settings_from_argument(PrepareSettings, args.settings)
    files: dict[str, Path] = {}
    with (
        report_full_disk(args.output),
        atomic_folder(args.output) as folder,
        record("prepare", CaptureFolder(folder).provenance, settings, files) as known,
    ):
        capture, found = READERS[args.layout].load(args.path, args.name, args.normals, settings)
        files |= found
        capture = resized(capture, settings.upsample_factor)
        save_capture(folder, capture)
        write_preview(CaptureFolder(folder).preview, capture)
        known |= {
            "layout": args.layout,
            "normals": args.normals,
            "views": len(capture.views),
            "image_size": [capture.masks.shape[2], capture.masks.shape[1]],
            "has_reference_poses": capture.reference_c2w is not None,
        }
