"""`pmni synthesize`: a capture with exact ground truth, of an analytic scene or of any mesh."""

import argparse
from pathlib import Path

from pmni.config.base import settings_from_argument
from pmni.config.capture import SynthesizeSettings
from pmni.errors import InputError
from pmni.io.atomic import atomic_folder
from pmni.runtime.provenance import record
from pmni.synthetic.capture import make_surface, synthesize
from pmni.synthetic.scenes import SCENES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `pmni synthesize`."""
    parser.add_argument(
        "--settings",
        help=f"YAML file or inline JSON; `scene` is {', '.join(SCENES)}, or a mesh file",
    )
    parser.add_argument("--output", type=Path, required=True, help="the capture's folder")


def run(args: argparse.Namespace) -> None:
    """Write a capture in the SuperNormal layout."""
    settings = settings_from_argument(SynthesizeSettings, args.settings)
    output = Path(args.output)
    if output.is_dir() and any(output.iterdir()) and not (output / "scene.json").is_file():
        raise InputError(f"{output}: is there and is not a synthetic capture; name another folder")
    inputs = {} if settings.scene in SCENES else {"mesh": Path(settings.scene)}
    with (
        atomic_folder(output) as folder,
        record("synthesize", folder / "provenance.json", settings, inputs),
    ):
        synthesize(make_surface(settings), settings, folder)
