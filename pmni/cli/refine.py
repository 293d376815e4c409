"""`pmni refine`: poses and a grid surface together, in seconds and without a network."""

import argparse
import logging
from pathlib import Path

import torch

from pmni import kernels
from pmni.config.base import settings_from_argument
from pmni.config.refinement import RefineSettings
from pmni.data.capture import load_capture
from pmni.io.poses import read_poses, write_poses
from pmni.io.tables import write_rows
from pmni.refinement.refine import refine
from pmni.runtime import provenance
from pmni.runtime.determinism import deterministic
from pmni.runtime.devices import acquire_device
from pmni.runtime.layout import CaptureFolder, RefinementFolder
from pmni.sdf.checkpoint import save_band

LOGGER = logging.getLogger("refine")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pmni refine`."""
    parser.add_argument("--capture", type=Path, required=True, help="folder of the capture")
    parser.add_argument("--poses", type=Path, required=True, help="initial poses (JSON)")
    parser.add_argument("--settings", help="YAML file or inline JSON; see RefineSettings")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")


def run(args: argparse.Namespace) -> None:
    """Refine, and write the poses, the surface and how it went."""
    settings = settings_from_argument(RefineSettings, args.settings)
    capture = load_capture(args.capture, with_ground_truth=False)
    initial = read_poses(args.poses)
    inputs = {"capture": CaptureFolder(args.capture).archive, "poses": args.poses}
    output = RefinementFolder(args.output)
    with (
        deterministic(settings.deterministic),
        acquire_device(settings.device) as device,
        provenance.record("refine", output.provenance, settings, inputs) as known,
    ):
        result = refine(capture, initial, settings, device, progress=LOGGER.info)
        known |= {"device": device.type, "history": result.history[-1]}
        known["backend"] = "triton" if kernels.use_triton(device) else "torch"
        if device.type == "cuda":
            known["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
        save_band(output.surface, result.surface)
        write_rows(output.history, result.history)
        write_poses(output.poses, result.poses)
