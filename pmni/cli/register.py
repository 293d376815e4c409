"""`pmni register`: initial camera poses."""

import argparse
import logging
from pathlib import Path

from pmni.config.base import settings_from_argument
from pmni.config.registration import RegisterSettings
from pmni.data.capture import load_capture
from pmni.data.ray_distances import read_ray_distances
from pmni.io.poses import write_poses
from pmni.registration.register import register
from pmni.runtime import provenance

LOGGER = logging.getLogger("register")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pmni register`."""
    parser.add_argument("--capture", type=Path, required=True, help="folder of the capture")
    parser.add_argument(
        "--ray-distances",
        type=Path,
        help="folder of the integrated distances, for method from_scratch",
    )
    parser.add_argument("--settings", help="YAML file or inline JSON; see RegisterSettings")
    parser.add_argument("--output", type=Path, required=True, help="folder for the poses")


def run(args: argparse.Namespace) -> None:
    """Find initial poses and write `initial_poses.json`."""
    settings = settings_from_argument(RegisterSettings, args.settings)
    capture = load_capture(args.capture, with_ground_truth=False)
    inputs = {"capture": args.capture / "capture.npz"}
    distances = None
    if args.ray_distances is not None:
        inputs["ray_distances"] = args.ray_distances / "ray_distance.npz"
        distances = read_ray_distances(inputs["ray_distances"], capture)
    with provenance.record("register", args.output / "provenance.json", settings, inputs):
        poses = register(capture, distances, settings, LOGGER.info)
        write_poses(args.output / "initial_poses.json", poses)
    LOGGER.info("%s: %d poses, method '%s'", capture.name, len(poses.views), settings.method)
