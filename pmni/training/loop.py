"""A training under way: its steps, what they leave in a folder, and how it goes on after a stop."""

import logging
import time
from pathlib import Path

import numpy as np
import torch

from pmni.geometry.poses import Poses
from pmni.geometry.transforms import rotation_angle_deg
from pmni.io.poses import write_poses
from pmni.io.tables import Row, write_rows
from pmni.sdf.band import BandSDF
from pmni.sdf.checkpoint import save_surface
from pmni.sdf.sdf import SDF
from pmni.training import schedule
from pmni.training.checkpoint import iteration_name, load_state, save_state
from pmni.training.heldout import heldout_errors, heldout_pixels
from pmni.training.history import Progress
from pmni.training.movement import EVERY, Movement
from pmni.training.selection import BlockErrors
from pmni.training.signals import StopRequest
from pmni.training.trainer import StepReport, Trainer

LOGGER = logging.getLogger("train")
HISTORY_ROWS = 100


class Training:
    """The steps of a trainer. `work` is the folder of its state and its results."""

    def __init__(self, trainer: Trainer, work: Path) -> None:
        self.trainer, self.work = trainer, work
        self.errors: dict[int, BlockErrors] = {}
        """Those of held-out normals by iteration: of the surface that was given (0), and of all
        that are kept."""
        self._rows: list[Row] = []
        self._movement = Movement()
        self._pixels = heldout_pixels(trainer.views)
        self._state_file = work / "state.pt"
        self._seconds = 0.0
        self._start = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds of all steps, those before an interruption too."""
        return self._seconds + time.perf_counter() - self._start

    def begin(self, surface: BandSDF | None) -> None:
        """Go on from the saved state, or start warm: from the `surface`, if there is one."""
        trainer = self.trainer
        if self._state_file.is_file():
            state = load_state(self._state_file, trainer.device)
            trainer.restore(state["trainer"])
            self._rows, self._seconds = state["rows"], state["seconds"]
            self._movement = Movement(state["points"])
            for step, pair in state["errors"].items():
                self.errors[step] = BlockErrors(*map(np.array, pair))
            LOGGER.info("going on from step %d of %d", trainer.step_number, trainer.settings.steps)
            return
        error = trainer.warm_start()
        if error is not None:
            LOGGER.info("network fitted to the visual hull, mean error %.4f", error)
        if surface is not None:
            self._judge(0, surface)

    def run(self) -> None:
        """Do the remaining steps, or as many as it takes until the surface moves no more.

        On SIGTERM or SIGINT the state is saved and SystemExit raised with 128 + the signal.
        """
        trainer, settings = self.trainer, self.trainer.settings
        every = -(-settings.steps // HISTORY_ROWS)
        with (
            StopRequest() as stop,
            Progress(settings.steps, trainer.step_number, self.work / "tensorboard") as progress,
        ):
            while trainer.step_number < settings.steps:
                report = trainer.step()
                done = trainer.step_number
                rests = self._rests()
                progress.advance()
                if done % every == 0 or done in {1, settings.steps} or rests:
                    self._rows.append(self._row(report))
                    progress.report(self._rows[-1])
                for step in settings.kept_steps():
                    if step == done or (rests and step > done):
                        self._keep(step)
                if rests:
                    break
                if stop.received is not None:
                    self._save()
                    LOGGER.info("stopped by signal %d; state saved at step %d", stop.received, done)
                    raise SystemExit(128 + stop.received)
                if done % settings.save_every == 0 and done < settings.steps:
                    self._save()
        write_rows(self.work / "history.csv", self._rows)

    def _rests(self) -> bool:
        """Whether the surface moves no more: looked at from time to time, once all levels of the
        encoding are on and the last phase has begun."""
        trainer, settings, done = self.trainer, self.trainer.settings, self.trainer.step_number
        if settings.convergence.threshold is None or done % EVERY or done == settings.steps:
            return False
        distance = torch.linalg.vector_norm(trainer.poses().detach()[:, :3, 3], dim=-1)
        pixel = float((distance / trainer.views.intrinsics[:, 0, 0]).median())
        moved = self._movement.since(trainer.surface, trainer.occupancy) / pixel
        settled = trainer.network.active == settings.field.levels
        settled &= schedule.phase_number(done, settings) == len(settings.phases) - 1
        if not settled or moved >= settings.convergence.threshold:
            return False
        LOGGER.info(
            "stopped at step %d of %d: in %d steps the surface has moved by %.3f pixels",
            *(done, settings.steps, EVERY, moved),
        )
        return True

    def _judge(self, step: int, sdf: SDF) -> None:
        if len(self._pixels.view):
            poses = self.trainer.poses().detach()
            self.errors[step] = heldout_errors(sdf, self._pixels, poses)

    def _keep(self, step: int) -> None:
        """Write the checkpoint and the poses as those of a step, and judge them."""
        trainer, name = self.trainer, iteration_name(step)
        path = self.work / "checkpoints" / f"{name}.safetensors"
        save_surface(path, trainer.surface, trainer.settings.field, step)
        matrices = trainer.poses().detach().double().cpu().numpy()
        information = {"iteration": step, "learned": trainer.settings.poses.method != "fixed"}
        poses = Poses(trainer.views.names, matrices, information)
        write_poses(self.work / "poses" / f"{name}.json", poses)
        self._judge(step, trainer.surface)

    def _save(self) -> None:
        """Write the resumable state."""
        state = {
            "trainer": self.trainer.state(),
            "rows": self._rows,
            "errors": {s: (e.sums.tolist(), e.counts.tolist()) for s, e in self.errors.items()},
            "points": self._movement.points,
            "seconds": self.elapsed(),
        }
        save_state(self._state_file, state)

    def _row(self, report: StepReport) -> Row:
        """The numbers of a step, read from the device."""
        trainer = self.trainer
        moved, start = (
            pose.detach().double().cpu().numpy()
            for pose in (trainer.poses(), trainer.poses.initial)
        )
        angles = rotation_angle_deg(start[:, :3, :3], moved[:, :3, :3])
        distance = np.linalg.norm(start[:, :3, 3], axis=1)
        shift = np.linalg.norm(moved[:, :3, 3] - start[:, :3, 3], axis=1)
        measured = {"loss": report.loss, **report.terms, "inv_s": report.inv_s}
        numbers = torch.stack([value.float() for value in measured.values()]).tolist()
        settings, done = trainer.settings, trainer.step_number
        return {
            "step": done,
            "seconds": round(self.elapsed(), 3),
            **dict(zip(measured, numbers, strict=True)),
            "rate": settings.optimizer.learning_rate * schedule.rate_factor(done - 1, settings),
            "levels": trainer.network.active,
            "samples": int(report.samples),
            "pose_rotation_deg": float(angles.mean()),
            "pose_translation_percent": float((shift / distance).mean() * 100),
        }
