"""The training of a capture, from images and initial poses to surfaces and poses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from pmni.config.training import TrainSettings
from pmni.data.capture import Capture
from pmni.data.views import Views
from pmni.errors import InputError
from pmni.geometry.poses import Poses
from pmni.io.tables import Row
from pmni.refinement.correction import correct_capture
from pmni.refinement.observations import Observations
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.training.gauss_newton_poses import GaussNewtonPoses
from pmni.training.loop import KeptIteration, TrainingLoop
from pmni.training.progress import ProgressLines
from pmni.training.selection import Selection, select
from pmni.training.store import MemoryStore, TrainingObserver, TrainingStore
from pmni.training.trainer import Trainer

CPU = torch.device("cpu")


@dataclass(frozen=True)
class TrainingResult:
    """What a training has made."""

    kept: dict[int, KeptIteration]
    """Surfaces and poses of the kept iterations, the last step among them. Of a resumed training,
    those since it was resumed; the store has the others."""
    history: list[Row]
    """Losses, rates and pose changes of some 100 steps."""
    selection: Selection
    """Which iteration is the result; 0 is the given surface."""
    steps: int
    """Steps done: fewer than the settings say if the surface has converged."""
    seconds: float
    """Seconds of the steps, those before an interruption too."""
    backend: str
    """Implementation of the encoding."""

    @property
    def final(self) -> KeptIteration:
        """Surface and poses of the last iteration."""
        return self.kept[max(self.kept)]


def train(
    capture: Capture,
    ray_distances: Float[np.ndarray, "V H W"] | None,
    initial: Poses,
    surface: NarrowBandSDF | None = None,
    settings: TrainSettings | None = None,
    device: torch.device = CPU,
    store: TrainingStore | None = None,
    progress: Callable[[str], None] | None = None,
    observers: Sequence[TrainingObserver] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Optimise a neural surface and the poses by volume rendering.

    Args:
        ray_distances: integrated ray distances, NaN where there are none; None without any.
        initial: initial or refined poses, of all views that are not excluded.
        surface: a refined surface; the network then learns its correction.
        store: where the resumable state and kept iterations go; by default they stay in memory.
        progress: called with lines for people.
        observers: told of every step; by default lines go to `progress` every few seconds.
        interrupted: asked after each step whether to save the state and stop.

    Raises InputError for views or poses that are missing, DivergenceError for values that are not
    finite, and TrainingInterrupted, with the state saved, when `interrupted` says so.
    """
    settings = settings or TrainSettings()
    write = progress or (lambda line: None)
    if observers is None:
        observers = [ProgressLines(settings.steps, write)]
    trainer = make_trainer(capture, ray_distances, initial, surface, settings, device)
    loop = TrainingLoop(trainer, store or MemoryStore(), write, observers, interrupted)
    loop.begin(surface)
    loop.run()
    selection = select(loop.errors, settings.steps, settings.selection)
    for line in selection.lines():
        write(line)
    return TrainingResult(
        kept=loop.kept,
        history=loop.rows,
        selection=selection,
        steps=trainer.step_number,
        seconds=loop.seconds(),
        backend=trainer.network.encoding.backend_on(device),
    )


def make_trainer(
    capture: Capture,
    ray_distances: Float[np.ndarray, "V H W"] | None,
    initial: Poses,
    surface: NarrowBandSDF | None,
    settings: TrainSettings,
    device: torch.device,
) -> Trainer:
    """The training of a capture before its first step. Raises InputError as `train` does."""
    if surface is not None:
        capture = correct_capture(capture, initial, surface, device)
    elif settings.warm_start.source == "surface":
        raise InputError("warm_start.source is 'surface', but no surface is given")
    views = Views.of(capture, ray_distances, settings.exclude_views, settings.heldout, device)
    if len(views) < 2:
        raise InputError(f"{capture.name}: fewer than two views are left to train on")
    c2w = torch.as_tensor(initial.select(views.names), dtype=torch.float32, device=device)
    pose_steps = None
    if settings.poses.method == "gauss_newton":
        observations = Observations.of(views)
        cells = None if surface is None else surface.grid.cells
        pose_steps = GaussNewtonPoses(observations, cells, settings.poses.redistancing_sweeps)
    return Trainer(views, c2w, settings, surface, pose_steps)
