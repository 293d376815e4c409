"""`pmni train`: optimise surface and poses, resumable at any time."""

import argparse
import json
import logging
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from pmni import provenance
from pmni.capture.capture import load_capture
from pmni.config.base import settings_from_argument
from pmni.config.training import TrainSettings
from pmni.devices import claimed_device
from pmni.errors import InputError
from pmni.fields.checkpoint import save_surface
from pmni.integration.result import read_ray_distances
from pmni.io.atomic import atomic_folder, write_text
from pmni.io.poses import Poses, read_poses, write_poses
from pmni.io.tables import Row, write_rows
from pmni.lie import rotation_angle_deg
from pmni.training.checkpoint import iteration_name, load_state, save_state
from pmni.training.data import load_views
from pmni.training.history import Progress
from pmni.training.signals import StopRequest
from pmni.training.trainer import StepReport, Trainer

LOGGER = logging.getLogger("train")
HISTORY_ROWS = 400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pmni train`."""
    parser.add_argument("--capture", type=Path, required=True, help="folder of the capture")
    parser.add_argument(
        "--ray-distances", type=Path, required=True, help="folder of the integrated distances"
    )
    parser.add_argument("--poses", type=Path, required=True, help="initial poses (JSON)")
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
    for path in inputs.values():
        if not path.is_file():
            raise InputError(f"{path}: no such file; run the stage before")
    capture = load_capture(args.capture)
    initial = read_poses(args.poses)
    work = args.state / provenance.fingerprint("train", settings, inputs)
    work.mkdir(parents=True, exist_ok=True)
    distances = read_ray_distances(inputs["ray_distances"], capture)
    with (
        claimed_device(settings.device) as device,
        provenance.record("train", work / "provenance.json", settings, inputs) as known,
    ):
        views = load_views(capture, distances, settings.exclude_views, device)
        start = torch.as_tensor(initial.select(views.names), dtype=torch.float32, device=device)
        trainer = Trainer(views, start, settings)
        known["device"] = device.type
        known["backend"] = settings.field.backend
        known["train_seconds"] = optimise(trainer, work)
        if device.type == "cuda":
            known["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    selection = {"iteration": settings.steps, "heldout_error_deg": {}}
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


def optimise(trainer: Trainer, work: Path) -> float:
    """Run the remaining steps, keeping everything in `work`. Returns the seconds of all steps.

    On SIGTERM or SIGINT the state is saved and SystemExit raised with 128 + the signal.
    """
    settings = trainer.settings
    state_file = work / "state.pt"
    rows: list[Row] = []
    seconds = 0.0
    start = time.perf_counter()
    if state_file.is_file():
        state = load_state(state_file, trainer.device)
        trainer.restore(state["trainer"])
        rows, seconds = state["rows"], state["seconds"]
        LOGGER.info("going on from step %d of %d", trainer.step_number, settings.steps)
    else:
        error = trainer.warm_start()
        if error is not None:
            LOGGER.info("network fitted to the visual hull, mean error %.4f", error)
    every = max(1, settings.steps // HISTORY_ROWS)

    def elapsed() -> float:
        return seconds + time.perf_counter() - start

    def save() -> None:
        state = {"trainer": trainer.state(), "rows": rows, "seconds": elapsed()}
        save_state(state_file, state)

    with (
        StopRequest() as stop,
        Progress(settings.steps, trainer.step_number, work / "tensorboard") as progress,
    ):
        while trainer.step_number < settings.steps:
            report = trainer.step()
            done = trainer.step_number
            progress.advance()
            if done % every == 0 or done in {1, settings.steps}:
                row = history_row(trainer, report, elapsed())
                rows.append(row)
                progress.report(row)
            if done in settings.kept_steps():
                keep(trainer, work)
            if stop.received is not None:
                save()
                LOGGER.info("stopped by signal %d; state saved at step %d", stop.received, done)
                raise SystemExit(128 + stop.received)
            if done % settings.save_every == 0 and done < settings.steps:
                save()
    write_rows(work / "history.csv", rows)
    return elapsed()


def history_row(trainer: Trainer, report: StepReport, seconds: float) -> Row:
    """The numbers of a step, read from the device."""
    poses = trainer.poses()
    moved = poses.detach().double().cpu().numpy()
    start = trainer.poses.initial.double().cpu().numpy()
    angles = rotation_angle_deg(start[:, :3, :3], moved[:, :3, :3])
    distance = np.linalg.norm(start[:, :3, 3], axis=1)
    shift = np.linalg.norm(moved[:, :3, 3] - start[:, :3, 3], axis=1)
    return {
        "step": trainer.step_number,
        "seconds": round(seconds, 3),
        "loss": float(report.loss),
        **{name: float(term) for name, term in report.terms.items()},
        **report.values,
        "inv_s": float(trainer.inv_s(trainer.step_number - 1)),
        "pose_rotation_deg": float(angles.mean()),
        "pose_translation_percent": float((shift / distance).mean() * 100),
    }


def keep(trainer: Trainer, work: Path) -> None:
    """Write the checkpoint and the poses of the current step."""
    step = trainer.step_number
    name = iteration_name(step)
    surface = work / "checkpoints" / f"{name}.safetensors"
    save_surface(surface, trainer.network, trainer.settings.field, step)
    matrices = trainer.poses().detach().double().cpu().numpy()
    information = {"iteration": step, "learned": trainer.settings.poses.learn}
    write_poses(work / "poses" / f"{name}.json", Poses(trainer.views.names, matrices, information))
