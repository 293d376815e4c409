"""`pmni train`: optimise surface and poses, resumable at any time."""

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from pmni.config.base import settings_from_argument
from pmni.config.training import TrainSettings
from pmni.data.capture import Capture, load_capture
from pmni.errors import InputError
from pmni.geometry.poses import Poses
from pmni.integration.result import read_ray_distances
from pmni.io.atomic import atomic_folder, write_text
from pmni.io.poses import read_poses
from pmni.refinement.correction import corrected
from pmni.refinement.measurements import load_measurements
from pmni.runtime import provenance
from pmni.runtime.determinism import bit_for_bit
from pmni.runtime.devices import claimed_device
from pmni.sdf.band import BandSDF
from pmni.sdf.checkpoint import load_surface
from pmni.sdf.encoding import backend_on
from pmni.training.data import load_views
from pmni.training.loop import Training
from pmni.training.pose_steps import PoseSteps
from pmni.training.selection import select
from pmni.training.trainer import Trainer

LOGGER = logging.getLogger("train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pmni train`."""
    parser.add_argument("--capture", type=Path, required=True, help="folder of the capture")
    parser.add_argument(
        "--ray-distances", type=Path, required=True, help="folder of the integrated distances"
    )
    parser.add_argument("--poses", type=Path, required=True, help="initial poses (JSON)")
    parser.add_argument("--surface", type=Path, help="surface to start from, as refine writes it")
    parser.add_argument("--settings", help="YAML file or inline JSON; see TrainSettings")
    parser.add_argument(
        "--state", type=Path, required=True, help="folder for the resumable state of trainings"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")


def run(args: argparse.Namespace) -> None:
    """Train, or go on with a training that was interrupted, and write its results."""
    settings = settings_from_argument(TrainSettings, args.settings)
    inputs = {
        "capture": args.capture / "capture.npz",
        "ray_distances": args.ray_distances / "ray_distance.npz",
        "poses": args.poses,
    }
    if args.surface is not None:
        inputs["surface"] = args.surface
    for path in inputs.values():
        if not path.is_file():
            raise InputError(f"{path}: no such file; run the stage before")
    capture = load_capture(args.capture, with_ground_truth=False)
    initial = read_poses(args.poses)
    work = args.state / provenance.fingerprint("train", settings, inputs)
    work.mkdir(parents=True, exist_ok=True)
    distances = read_ray_distances(inputs["ray_distances"], capture)
    with (
        bit_for_bit(settings.deterministic),
        claimed_device(settings.device) as device,
        provenance.record("train", work / "provenance.json", settings, inputs) as known,
    ):
        surface = starting_surface(args.surface, settings, device)
        if surface is not None:
            capture = corrected(capture, initial, surface, device)
        trainer = make_trainer(capture, distances, initial, surface, settings, device)
        known["device"] = device.type
        known["backend"] = backend_on(settings.field, device)
        training = Training(trainer, work)
        training.begin(surface)
        training.run()
        known["train_seconds"] = training.elapsed()
        if trainer.step_number < settings.steps:
            known["stopped_at"] = trainer.step_number
        if device.type == "cuda":
            known["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    selection = select(training.errors, settings.steps)
    log_selection(selection)
    write_text(work / "selection.json", json.dumps(selection) + "\n")
    with atomic_folder(args.output) as folder:
        results = ("checkpoints", "poses", "tensorboard")
        for name in (*results, "history.csv", "selection.json", "provenance.json"):
            source = work / name
            if source.is_dir():
                shutil.copytree(source, folder / name)
            else:
                shutil.copy2(source, folder / name)
    shutil.rmtree(work)


def starting_surface(
    path: Path | None, settings: TrainSettings, device: torch.device
) -> BandSDF | None:
    """The surface to start from. Raises InputError when it is no grid, or needed and not given."""
    if path is None:
        if settings.warm_start.source == "surface":
            raise InputError("warm_start.source is 'surface', but there is none: give --surface")
        return None
    surface = load_surface(path, device)
    if not isinstance(surface, BandSDF):
        raise InputError(f"{path}: not a grid surface; give the one that `pmni refine` writes")
    return surface


def make_trainer(
    capture: Capture,
    distances: Float[np.ndarray, "V H W"],
    initial: Poses,
    surface: BandSDF | None,
    settings: TrainSettings,
    device: torch.device,
) -> Trainer:
    """The training of a capture, before its first step."""
    views = load_views(capture, distances, settings.exclude_views, device, settings.heldout)
    start = torch.as_tensor(initial.select(views.names), dtype=torch.float32, device=device)
    pose_steps = None
    if settings.poses.method == "gauss_newton":
        measurements = load_measurements(
            capture, settings.exclude_views, device, heldout=settings.heldout
        )
        pose_steps = PoseSteps(measurements, surface.grid.cells if surface is not None else None)
    return Trainer(views, start, settings, surface, pose_steps)


def log_selection(selection: dict[str, Any]) -> None:
    """A line for people."""
    errors, chosen = selection["heldout_error_deg"], selection["iteration"]
    if errors:
        each = ", ".join(f"{error:.3f} at {step}" for step, error in errors.items())
        LOGGER.info("held-out normals, degrees: %s; the result is iteration %d", each, chosen)
    if "heldout_gain_deg" in selection:
        spread = selection["heldout_gain_standard_error_deg"]
        known = "unknown" if spread is None else f"{spread:.4f}"
        gain = selection["heldout_gain_deg"]
        LOGGER.info("gain of the network: %.4f degrees, standard error %s", gain, known)
