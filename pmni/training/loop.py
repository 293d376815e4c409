"""The training loop: steps, history, kept iterations, convergence, interruption and resuming."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pmni.geometry.poses import Poses
from pmni.geometry.transforms import rotation_angle_deg
from pmni.io.tables import Row
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.residual import ResidualSDF
from pmni.sdf.sdf import SDF
from pmni.training import schedule
from pmni.training.convergence import ConvergenceTest
from pmni.training.heldout import heldout_errors, heldout_pixels
from pmni.training.selection import BlockErrors
from pmni.training.store import TrainedSDF, TrainingObserver, TrainingStore
from pmni.training.trainer import StepReport, Trainer

HISTORY_ROWS = 100
"""Approximate number of rows of the history."""


class TrainingInterrupted(Exception):
    """A training has stopped on request; its state is in the store."""

    def __init__(self, step: int) -> None:
        super().__init__(f"interrupted at step {step}")
        self.step = step


@dataclass(frozen=True)
class KeptIteration:
    """Surface and poses of one iteration."""

    surface: TrainedSDF
    poses: Poses


class TrainingLoop:
    """Runs a trainer to its last step, or until the surface has converged.

    Args:
        store: where the resumable state and kept iterations go.
        progress: called with lines for people.
        observers: told of every step and every row of the history.
        interrupted: asked after each step whether to save the state and stop.
    """

    def __init__(
        self,
        trainer: Trainer,
        store: TrainingStore,
        progress: Callable[[str], None],
        observers: Sequence[TrainingObserver],
        interrupted: Callable[[], bool],
    ) -> None:
        self.trainer, self.store, self.progress = trainer, store, progress
        self.observers, self.interrupted = observers, interrupted
        self.errors: dict[int, BlockErrors] = {}
        """Held-out errors by iteration: of the initial surface (0), and of kept iterations."""
        self.rows: list[Row] = []
        self.kept: dict[int, KeptIteration] = {}
        """Iterations kept since the start of this process."""
        settings = trainer.settings
        self._convergence = ConvergenceTest(settings.convergence)
        self._pixels = heldout_pixels(trainer.views, settings.selection.eroded_pixels)
        self._seconds_before = 0.0
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Seconds of all steps, those before an interruption too."""
        return self._seconds_before + time.perf_counter() - self._start

    def begin(self, surface: NarrowBandSDF | None) -> None:
        """Resume from the store's state, or start warm; `surface` is the refined one, if any."""
        trainer = self.trainer
        state = self.store.load_state(trainer.device)
        if state is not None:
            trainer.restore(state["trainer"])
            self.rows, self._seconds_before = state["rows"], state["seconds"]
            self._convergence.points = state["points"]
            for step, pair in state["errors"].items():
                self.errors[step] = BlockErrors(*map(np.array, pair))
            self.progress(f"going on from step {trainer.step_number} of {trainer.settings.steps}")
            return
        error = trainer.warm_start()
        if error is not None:
            self.progress(f"network fitted to the visual hull, mean error {error:.4f}")
        if surface is not None:
            self._evaluate_heldout(0, surface)

    def run(self) -> None:
        """Do the remaining steps. Raises TrainingInterrupted, with the state saved."""
        trainer, settings = self.trainer, self.trainer.settings
        row_every = -(-settings.steps // HISTORY_ROWS)
        for observer in self.observers:
            observer.on_start(trainer.step_number)
        while trainer.step_number < settings.steps:
            report = trainer.step()
            done = trainer.step_number
            converged = self._has_converged()
            for observer in self.observers:
                observer.on_step()
            if done % row_every == 0 or done in {1, settings.steps} or converged:
                self._add_row(report)
            for step in settings.kept_steps():
                if step == done or (converged and step > done):
                    self._keep(step)
            if converged:
                break
            if self.interrupted():
                self._save_state()
                raise TrainingInterrupted(done)
            if done % settings.save_every == 0 and done < settings.steps:
                self._save_state()

    def _has_converged(self) -> bool:
        """Whether the surface moves no more, tested once all levels of the encoding are active and
        the last phase has begun."""
        trainer, settings, done = self.trainer, self.trainer.settings, self.trainer.step_number
        test = settings.convergence
        if test.threshold is None or done % test.every or done == settings.steps:
            return False
        distance = torch.linalg.vector_norm(trainer.poses().detach()[:, :3, 3], dim=-1)
        focal = trainer.views.intrinsics.float()[:, 0, 0]
        pixel = float((distance / focal).median())
        motion = self._convergence.surface_motion(trainer.surface, trainer.occupancy) / pixel
        final = trainer.network.active == settings.field.levels
        final &= schedule.phase_index(done, settings) == len(settings.phases) - 1
        if not final or motion >= test.threshold:
            return False
        self.progress(
            f"stopped at step {done} of {settings.steps}: in {test.every} steps the surface has "
            f"moved by {motion:.3f} pixels"
        )
        return True

    def _evaluate_heldout(self, step: int, sdf: SDF) -> None:
        if len(self._pixels.view):
            poses = self.trainer.poses().detach()
            self.errors[step] = heldout_errors(sdf, self._pixels, poses)

    def _keep(self, step: int) -> None:
        """Keep surface and poses as those of an iteration, and evaluate its held-out error."""
        trainer = self.trainer
        matrices = trainer.poses().detach().double().cpu().numpy()
        information = {"iteration": step, "learned": trainer.settings.poses.method != "fixed"}
        poses = Poses(trainer.views.names, matrices, information)
        self.store.keep(step, trainer.surface, poses)
        is_last = step == trainer.settings.steps
        surface = trainer.surface if is_last else _copy(trainer.surface)
        self.kept[step] = KeptIteration(surface, poses)
        self._evaluate_heldout(step, trainer.surface)

    def _save_state(self) -> None:
        errors = {
            step: (blocks.sums.tolist(), blocks.counts.tolist())
            for step, blocks in self.errors.items()
        }
        self.store.save_state(
            {
                "trainer": self.trainer.state(),
                "rows": self.rows,
                "errors": errors,
                "points": self._convergence.points,
                "seconds": self.seconds(),
            }
        )

    def _add_row(self, report: StepReport) -> None:
        self.rows.append(self._row(report))
        for observer in self.observers:
            observer.on_row(self.rows[-1])

    def _row(self, report: StepReport) -> Row:
        """The numbers of a step, read from the device."""
        trainer = self.trainer
        current, initial = (
            pose.detach().double().cpu().numpy()
            for pose in (trainer.poses(), trainer.poses.initial)
        )
        angles = rotation_angle_deg(initial[:, :3, :3], current[:, :3, :3])
        distance = np.linalg.norm(initial[:, :3, 3], axis=1)
        shift = np.linalg.norm(current[:, :3, 3] - initial[:, :3, 3], axis=1)
        tensors = {"loss": report.loss, **report.terms, "inv_s": report.inv_s}
        numbers = torch.stack([value.float() for value in tensors.values()]).tolist()
        settings, done = trainer.settings, trainer.step_number
        factor = schedule.rate_factor(done - 1, settings)
        return {
            "step": done,
            "seconds": round(self.seconds(), 3),
            **dict(zip(tensors, numbers, strict=True)),
            "learning_rate": settings.optimizer.learning_rate * factor,
            "levels": trainer.network.active,
            "samples": int(report.samples),
            "pose_rotation_deg": float(angles.mean()),
            "pose_translation_percent": float((shift / distance).mean() * 100),
        }


def _copy(surface: TrainedSDF) -> TrainedSDF:
    """A copy that further steps do not change; a grid surface is shared, as it is fixed."""
    if isinstance(surface, ResidualSDF):
        return ResidualSDF(surface.surface, copy.deepcopy(surface.correction))
    return copy.deepcopy(surface)
