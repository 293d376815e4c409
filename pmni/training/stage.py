"""`pmni train`: optimise surface and poses, resumable at any time."""

import argparse
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from pmni import provenance
from pmni.capture.capture import Capture, load_capture
from pmni.config.base import settings_from_argument
from pmni.config.training import TrainSettings
from pmni.devices import claimed_device
from pmni.errors import InputError
from pmni.fields.band import BandSDF
from pmni.fields.checkpoint import load_surface, save_surface
from pmni.fields.encoding import backend_on
from pmni.fields.sdf import SDF
from pmni.integration.result import read_ray_distances
from pmni.io.atomic import atomic_folder, write_text
from pmni.io.poses import Poses, read_poses, write_poses
from pmni.io.tables import Row, write_rows
from pmni.lie import rotation_angle_deg
from pmni.refinement.correction import corrected
from pmni.refinement.measurements import load_measurements
from pmni.training import schedule
from pmni.training.checkpoint import iteration_name, load_state, save_state
from pmni.training.data import load_views
from pmni.training.heldout import heldout_errors, heldout_pixels
from pmni.training.history import Progress
from pmni.training.pose_steps import PoseSteps
from pmni.training.selection import BlockErrors, select
from pmni.training.signals import StopRequest
from pmni.training.trainer import StepReport, Trainer

LOGGER = logging.getLogger("train")
HISTORY_ROWS = 100


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
    capture = load_capture(args.capture, with_truth=False)
    initial = read_poses(args.poses)
    work = args.state / provenance.fingerprint("train", settings, inputs)
    work.mkdir(parents=True, exist_ok=True)
    distances = read_ray_distances(inputs["ray_distances"], capture)
    with (
        claimed_device(settings.device) as device,
        provenance.record("train", work / "provenance.json", settings, inputs) as known,
    ):
        surface = starting_surface(args.surface, settings, device)
        if surface is not None:
            capture = corrected(capture, initial, surface, device)
        trainer = make_trainer(capture, distances, initial, surface, settings, device)
        known["device"] = device.type
        known["backend"] = backend_on(settings.field, device)
        known["train_seconds"], errors = optimise(trainer, surface, work)
        if device.type == "cuda":
            known["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    selection = select(errors, settings.steps)
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


def optimise(
    trainer: Trainer, surface: BandSDF | None, work: Path
) -> tuple[float, dict[int, BlockErrors]]:
    """Run the remaining steps, keeping everything in `work`.

    Returns the seconds of all steps, and the errors of held-out normals by iteration: of the
    `surface` that was given (0), and of all that are kept.

    On SIGTERM or SIGINT the state is saved and SystemExit raised with 128 + the signal.
    """
    settings = trainer.settings
    state_file = work / "state.pt"
    rows: list[Row] = []
    seconds = 0.0
    errors: dict[int, BlockErrors] = {}
    pixels = heldout_pixels(trainer.views)

    def judge(step: int, sdf: SDF) -> None:
        if len(pixels.view):
            errors[step] = heldout_errors(sdf, pixels, trainer.poses().detach())

    start = time.perf_counter()
    if state_file.is_file():
        state = load_state(state_file, trainer.device)
        trainer.restore(state["trainer"])
        rows, seconds = state["rows"], state["seconds"]
        errors = {step: BlockErrors(*map(np.array, pair)) for step, pair in state["errors"].items()}
        LOGGER.info("going on from step %d of %d", trainer.step_number, settings.steps)
    else:
        error = trainer.warm_start()
        if error is not None:
            LOGGER.info("network fitted to the visual hull, mean error %.4f", error)
        if surface is not None:
            judge(0, surface)
    every = max(1, settings.steps // HISTORY_ROWS)

    def elapsed() -> float:
        return seconds + time.perf_counter() - start

    def save() -> None:
        listed = {step: (e.sums.tolist(), e.counts.tolist()) for step, e in errors.items()}
        state = {"trainer": trainer.state(), "rows": rows, "errors": listed}
        save_state(state_file, state | {"seconds": elapsed()})

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
                judge(done, trainer.surface)
            if stop.received is not None:
                save()
                LOGGER.info("stopped by signal %d; state saved at step %d", stop.received, done)
                raise SystemExit(128 + stop.received)
            if done % settings.save_every == 0 and done < settings.steps:
                save()
    write_rows(work / "history.csv", rows)
    return elapsed(), errors


def history_row(trainer: Trainer, report: StepReport, seconds: float) -> Row:
    """The numbers of a step, read from the device."""
    moved, start = (
        pose.detach().double().cpu().numpy() for pose in (trainer.poses(), trainer.poses.initial)
    )
    angles = rotation_angle_deg(start[:, :3, :3], moved[:, :3, :3])
    distance = np.linalg.norm(start[:, :3, 3], axis=1)
    shift = np.linalg.norm(moved[:, :3, 3] - start[:, :3, 3], axis=1)
    measured = {"loss": report.loss, **report.terms, "inv_s": report.inv_s}
    numbers = torch.stack([value.float() for value in measured.values()]).tolist()
    settings, done = trainer.settings, trainer.step_number
    return {
        "step": done,
        "seconds": round(seconds, 3),
        **dict(zip(measured, numbers, strict=True)),
        "rate": settings.rate * schedule.rate_factor(done - 1, settings),
        "levels": trainer.network.active,
        "samples": int(report.samples),
        "pose_rotation_deg": float(angles.mean()),
        "pose_translation_percent": float((shift / distance).mean() * 100),
    }


def keep(trainer: Trainer, work: Path) -> None:
    """Write the checkpoint and the poses of the current step."""
    step = trainer.step_number
    name = iteration_name(step)
    path = work / "checkpoints" / f"{name}.safetensors"
    save_surface(path, trainer.surface, trainer.settings.field, step)
    matrices = trainer.poses().detach().double().cpu().numpy()
    information = {"iteration": step, "learned": trainer.settings.poses.method != "fixed"}
    write_poses(work / "poses" / f"{name}.json", Poses(trainer.views.names, matrices, information))
