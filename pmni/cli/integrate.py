"""`pmni integrate`: normal maps to ray distances."""

import argparse
import logging
from pathlib import Path

from pmni.config.base import settings_from_argument
from pmni.config.integration import IntegrateSettings
from pmni.data.capture import load_capture
from pmni.data.ray_distances import write_ray_distances
from pmni.integration.integrate import integrate
from pmni.integration.preview import write_preview
from pmni.io.atomic import atomic_file
from pmni.runtime import provenance
from pmni.runtime.layout import CaptureFolder, IntegrationFolder

log = logging.getLogger("integrate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pmni integrate`."""
    parser.add_argument("--capture", type=Path, required=True, help="folder of the capture")
    parser.add_argument("--settings", help="YAML file or inline JSON; see IntegrateSettings")
    parser.add_argument("--output", type=Path, required=True, help="folder for the distances")
    parser.add_argument("--threads", type=int, default=0, help="views at a time; 0 for all CPUs")


def run(args: argparse.Namespace) -> None:
    """Write the ray distances of all views, and a preview."""
    settings = settings_from_argument(IntegrateSettings, args.settings)
    capture = load_capture(args.capture, with_ground_truth=False)
    inputs = {"capture": CaptureFolder(args.capture).archive}
    output = IntegrationFolder(args.output)
    with provenance.record("integrate", output.provenance, settings, inputs) as known:
        integration = integrate(capture, settings, args.threads)
        if integration.iterations:
            known["iterations"] = integration.iterations
        distances = integration.ray_distances
        write_ray_distances(output.ray_distances, distances, capture.views)
        with atomic_file(output.preview) as temporary:
            write_preview(temporary, distances, capture.intrinsics, capture.views)
    log.info("%s: ray distances of %d views", capture.name, len(distances))
