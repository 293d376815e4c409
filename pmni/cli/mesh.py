"""`pmni mesh`: the surface of a checkpoint as a triangle mesh in dataset units."""

import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path

from pmni.config.base import settings_from_argument
from pmni.config.extensions import EXTRACTORS
from pmni.config.meshing import MeshSettings
from pmni.data.capture import load_capture
from pmni.io.ply import write_ply
from pmni.meshing.extract import extract
from pmni.runtime.devices import acquire_device
from pmni.runtime.layout import CaptureFolder, provenance_of
from pmni.runtime.provenance import record

log = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Options of the stage."""
    parser.add_argument("--capture", type=Path, required=True, help="folder made by prepare")
    parser.add_argument("--checkpoint", type=Path, required=True, help="iter_*.safetensors")
    parser.add_argument("--settings", help="MeshSettings: a YAML file or inline YAML")
    parser.add_argument("--output", type=Path, required=True, help="the mesh, .ply")


def run(args: Namespace) -> None:
    """Run the stage."""
    from pmni.sdf.checkpoint import load_surface

    settings = settings_from_argument(MeshSettings, args.settings)
    EXTRACTORS[settings.extractor]()  # fails at once where its library is missing
    capture = load_capture(args.capture, with_ground_truth=False)
    inputs = {"capture": CaptureFolder(args.capture).archive, "checkpoint": args.checkpoint}
    provenance = provenance_of(args.output)
    with (
        acquire_device(settings.device) as device,
        record("mesh", provenance, settings, inputs) as facts,
    ):
        surface = load_surface(args.checkpoint, device)
        found = extract(surface, settings, capture.scale, capture.offset, device)
        mesh = found.mesh
        write_ply(args.output, mesh)
        facts |= {
            "extractor": settings.extractor,
            "device": str(device),
            "resolution": found.resolution,
            "evaluations": found.evaluations,
            "components": found.components,
            "box_edges": found.box_edges,
            "vertices": len(mesh.vertices),
            "faces": len(mesh.faces),
        }
    log.info(
        "%d vertices, %d faces from %d values; %d component(s), %s kept",
        *(len(mesh.vertices), len(mesh.faces), found.evaluations, found.components),
        "all" if settings.keep == "all" else "the largest",
    )
    if found.box_edges:
        log.warning(
            "the surface leaves the box [-1, 1]^3 along %d edges and is open there: the object is "
            "larger than its unit sphere, or training has not closed it",
            found.box_edges,
        )
