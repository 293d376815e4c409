"""`pmni train`: optimise surface and poses, resumable at any time."""

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from pmni.cli.training_store import FileStore, ProgressBar, TensorBoardLog
from pmni.config.base import settings_from_argument
from pmni.config.training import TrainSettings
from pmni.data.capture import load_capture
from pmni.data.ray_distances import read_ray_distances
from pmni.errors import InputError
from pmni.io.atomic import atomic_folder, write_text
from pmni.io.poses import read_poses
from pmni.io.tables import write_rows
from pmni.runtime import provenance
from pmni.runtime.determinism import deterministic
from pmni.runtime.devices import acquire_device
from pmni.runtime.layout import CaptureFolder, IntegrationFolder, TrainingFolder
from pmni.runtime.signals import StopRequest
from pmni.sdf.checkpoint import load_surface
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.training.loop import TrainingInterrupted
from pmni.training.progress import ProgressLines
from pmni.training.train import TrainingResult, train

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
    """Train, or go on with a training that was interrupted, and write its results.

    On SIGTERM or SIGINT the state is saved and SystemExit raised with 128 + the signal.
    """
    settings = settings_from_argument(TrainSettings, args.settings)
    inputs = {
        "capture": CaptureFolder(args.capture).archive,
        "ray_distances": IntegrationFolder(args.ray_distances).ray_distances,
        "poses": args.poses,
    }
    if args.surface is not None:
        inputs["surface"] = args.surface
    for path in inputs.values():
        if not path.is_file():
            raise InputError(f"{path}: no such file; run the stage before")
    work = TrainingFolder(args.state / provenance.fingerprint("train", settings, inputs))
    work.folder.mkdir(parents=True, exist_ok=True)
    result = _train(args, settings, inputs, work)
    write_text(work.selection, json.dumps(result.selection.to_json()) + "\n")
    with atomic_folder(args.output) as output:
        _copy_results(work, TrainingFolder(output))
    shutil.rmtree(work.folder)


def _train(
    args: argparse.Namespace,
    settings: TrainSettings,
    inputs: dict[str, Path],
    work: TrainingFolder,
) -> TrainingResult:
    """The training with its files in `work`, and its provenance."""
    capture = load_capture(args.capture, with_ground_truth=False)
    initial = read_poses(args.poses)
    distances = read_ray_distances(inputs["ray_distances"], capture)
    with (
        deterministic(settings.deterministic),
        acquire_device(settings.device) as device,
        provenance.record("train", work.provenance, settings, inputs) as known,
        TensorBoardLog(work.tensorboard) as tensorboard,
        StopRequest() as stop,
    ):
        known["device"] = device.type
        surface = _read_surface(args.surface, settings, device)
        lines = ProgressBar if ProgressBar.is_shown() else _log_lines
        try:
            result = train(
                *(capture, distances, initial, surface, settings, device),
                store=FileStore(work, settings.field),
                progress=LOGGER.info,
                observers=[tensorboard, lines(settings.steps)],
                interrupted=lambda: stop.received is not None,
            )
        except TrainingInterrupted as interruption:
            step, signal = interruption.step, stop.received or 0
            LOGGER.info("stopped by signal %d; state saved at step %d", signal, step)
            raise SystemExit(128 + signal) from None
        known.update(_numbers(result, settings, device))
    write_rows(work.history, result.history)
    return result


def _log_lines(steps: int) -> ProgressLines:
    return ProgressLines(steps, LOGGER.info)


def _read_surface(
    path: Path | None, settings: TrainSettings, device: torch.device
) -> NarrowBandSDF | None:
    """The surface to start from. Raises InputError when it is no grid, or needed and not given."""
    if path is None:
        if settings.warm_start.source == "surface":
            raise InputError("warm_start.source is 'surface', but there is none: give --surface")
        return None
    surface = load_surface(path, device)
    if not isinstance(surface, NarrowBandSDF):
        raise InputError(f"{path}: not a grid surface; give the one that `pmni refine` writes")
    return surface


def _numbers(
    result: TrainingResult, settings: TrainSettings, device: torch.device
) -> dict[str, Any]:
    """Numbers of a training for its provenance."""
    numbers: dict[str, Any] = {"backend": result.backend, "train_seconds": result.seconds}
    if result.steps < settings.steps:
        numbers["stopped_at"] = result.steps
    if device.type == "cuda":
        numbers["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return numbers


def _copy_results(work: TrainingFolder, output: TrainingFolder) -> None:
    """Copy everything but the resumable state."""
    for name in ("checkpoints", "poses_folder", "tensorboard"):
        shutil.copytree(getattr(work, name), getattr(output, name))
    for name in ("history", "selection", "provenance"):
        shutil.copy2(getattr(work, name), getattr(output, name))
