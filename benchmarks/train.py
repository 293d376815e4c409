"""Training: time by phase, throughput, memory, scaling, and time to an accuracy."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.bench import Bench
from benchmarks.records import Record
from benchmarks.surfaces import capture_of
from benchmarks.timing import PeakMemory, Stopwatch, synchronise
from pmni.config.base import merge
from pmni.config.meshing import MeshSettings
from pmni.config.training import TrainSettings
from pmni.data.capture import Capture
from pmni.data.views import Views
from pmni.evaluation.distances import point_tree, surface_errors
from pmni.geometry.mesh import Mesh
from pmni.geometry.ray_casting import Rays, cast_rays, mask_rays
from pmni.geometry.transforms import Similarity
from pmni.meshing.extract import extract_zero_level
from pmni.training import trainer as loop
from pmni.training.objective import Objective
from pmni.training.optimizer import Optimizer
from pmni.training.patches import PatchSampler
from pmni.training.trainer import Trainer
from pmni.volume_rendering import renderer
from pmni.volume_rendering.occupancy import OccupancyGrid

PART, WHOLE, REST = "train", "whole", "rest"
WARM_UP_STEPS = {"cpu": 3, "cuda": 32}
"""Warm-up steps by device; on a GPU they set buffer capacities and capture CUDA graphs."""
CHAMFER_POINTS = 100_000
"""Largest number of points of each surface in the Chamfer distance."""
TIMED_FUNCTIONS = (
    (OccupancyGrid, "refresh", "occupancy"),
    (PatchSampler, "draw", "rays"),
    (loop, "patch_rays", "rays"),
    (loop, "march", "march"),
    (loop, "render", "composite"),
    (renderer, "sample", "field"),
    (Objective, "terms", "losses"),
    (torch.Tensor, "backward", "backward"),
    (Optimizer, "step", "optimiser"),
)
"""Timed functions: owner, attribute, name of the phase."""


def run(bench: Bench) -> Iterator[Record]:
    """Time a step by phase, vary the numbers of patches and levels, then time a whole training."""
    sizes = bench.sizes
    capture = capture_of(sizes.views, sizes.height, sizes.width, sizes.faces)
    default = sizes.train
    seconds, megabytes, parameters = timed_steps(capture, default, bench)
    yield Record(PART, "step", WHOLE, seconds, "s", parameters)
    yield Record(PART, "step", WHOLE, 1 / seconds, "1/s", parameters)
    yield Record(PART, "step", WHOLE, megabytes, "MB", parameters)
    yield from _by_phase(capture, bench)
    for count in sizes.patch_counts:
        settings = with_changes(default, {"patches": count})
        yield from _scaled("patches", str(count), str(default.patches), capture, settings, bench)
    for levels in sizes.level_counts:
        settings = with_changes(default, {"field": {"levels": levels}})
        reference = str(default.field.levels)
        yield from _scaled("levels", str(levels), reference, capture, settings, bench)
    yield from _to_accuracy(capture, bench)


def with_changes(settings: TrainSettings, changes: dict[str, Any]) -> TrainSettings:
    """The settings with some values replaced."""
    return TrainSettings.parse(merge(settings.model_dump(), changes), "benchmarks")


def trainer_of(capture: Capture, settings: TrainSettings, device: torch.device) -> Trainer:
    """A trainer with the ground-truth poses, before its warm start."""
    no_distances = np.zeros(capture.masks.shape, np.float32)
    views = Views.of(capture, no_distances, device=device)
    c2w = torch.as_tensor(capture.reference_c2w, dtype=torch.float32, device=device)
    return Trainer(views, c2w, settings)


def mid_training_trainer(
    capture: Capture, settings: TrainSettings, device: torch.device
) -> Trainer:
    """A warm-started trainer set to the middle of the schedule, with all levels active."""
    levels = {"field": {"initial_levels": settings.field.levels}}
    trainer = trainer_of(capture, with_changes(settings, levels), device)
    trainer.warm_start()
    trainer.step_number = settings.steps // 2
    trainer.occupancy.refresh(trainer.surface)
    return trainer


def timed_steps(
    capture: Capture, settings: TrainSettings, bench: Bench
) -> tuple[float, float, dict[str, Any]]:
    """Seconds of a step, peak memory in MB, and the parameters of the measurement."""
    device, steps = bench.device, bench.sizes.steps
    with PeakMemory(device) as memory:
        trainer = mid_training_trainer(capture, settings, device)
        for _ in range(WARM_UP_STEPS[device.type]):
            trainer.step()
        synchronise(device)
        start = time.perf_counter()
        reports = [trainer.step() for _ in range(steps)]
        synchronise(device)
        seconds = (time.perf_counter() - start) / steps
    parameters = {
        "steps": steps,
        "patches": settings.patches,
        "patch": settings.rendering.patch,
        "levels": settings.field.levels,
        "log2_entries": settings.field.log2_entries,
        "gradient": settings.rendering.gradient,
        "samples": int(reports[-1].samples),
    }
    return seconds, memory.megabytes, parameters


def _by_phase(capture: Capture, bench: Bench) -> Iterator[Record]:
    steps = bench.sizes.steps
    settings = with_changes(bench.sizes.train, {"graph": "off"})  # no phases in a graph
    trainer = mid_training_trainer(capture, settings, bench.device)
    watch = Stopwatch(bench.device)
    with watch.watching(*TIMED_FUNCTIONS):
        for _ in range(WARM_UP_STEPS[bench.device.type]):
            trainer.step()
        watch.take()
        with watch.phase(REST):
            for _ in range(steps):
                trainer.step()
    phases = {phase: seconds / steps for phase, seconds in watch.take().items()}
    yield Record(PART, "step by phase", WHOLE, sum(phases.values()), "s")
    for phase, seconds in phases.items():
        yield Record(PART, "step by phase", phase, seconds, "s", {}, (WHOLE,))


def _scaled(
    name: str,
    variant: str,
    reference: str,
    capture: Capture,
    settings: TrainSettings,
    bench: Bench,
) -> Iterator[Record]:
    seconds, megabytes, parameters = timed_steps(capture, settings, bench)
    yield Record(PART, f"step, {name}", variant, seconds, "s", parameters, (reference,))
    yield Record(PART, f"step, {name}", variant, megabytes, "MB", parameters, (reference,))


def _to_accuracy(capture: Capture, bench: Bench) -> Iterator[Record]:
    """Seconds and peak memory of a training with ground-truth poses until its surface reaches each
    Chamfer distance; the time of the evaluations is not counted."""
    sizes, device = bench.sizes, bench.device
    settings = with_changes(sizes.train, {"poses": {"method": "fixed"}})
    trainer, evaluator, watch = (
        trainer_of(capture, settings, device),
        ChamferEvaluator(capture),
        Stopwatch(device),
    )
    curve: list[TrainingProgress] = []

    def timed_evaluation(advance: Callable[[], object]) -> None:
        with PeakMemory(device) as memory, watch.phase(WHOLE):
            advance()
        seconds, most = watch.take()[WHOLE], memory.megabytes
        if curve:
            seconds, most = seconds + curve[-1].seconds, max(most, curve[-1].megabytes)
        chamfer_mm = evaluator.chamfer_mm(trainer, sizes.check_cells)
        curve.append(TrainingProgress(trainer.step_number, seconds, most, chamfer_mm))

    def advance_steps() -> None:
        for _ in range(min(sizes.check_every, settings.steps - trainer.step_number)):
            trainer.step()

    timed_evaluation(trainer.warm_start)
    parameters: dict[str, Any] = {"steps": settings.steps, "patches": settings.patches}
    yield Record(PART, "training", "fit to the hull", curve[0].seconds, "s", parameters)
    while trainer.step_number < settings.steps:
        timed_evaluation(advance_steps)
    for target in sizes.targets_mm:
        first = next((progress for progress in curve if progress.chamfer_mm <= target), None)
        if first is not None:
            name = f"to a Chamfer distance of {target:g} mm"
            steps = {"steps": first.steps}
            yield Record(PART, "training", name, first.seconds, "s", steps, (WHOLE,))
            yield Record(PART, "training", name, first.megabytes, "MB", steps, (WHOLE,))
    parameters |= {
        "chamfer_mm": curve[-1].chamfer_mm,
        "curve": [asdict(progress) for progress in curve],
    }
    yield Record(PART, "training", WHOLE, curve[-1].seconds, "s", parameters)
    yield Record(PART, "training", WHOLE, curve[-1].megabytes, "MB", parameters)


@dataclass(frozen=True)
class TrainingProgress:
    """Steps, time, memory and Chamfer distance of a training at one evaluation."""

    steps: int
    seconds: float
    megabytes: float
    """Peak memory up to this evaluation."""
    chamfer_mm: float


class ChamferEvaluator:
    """Chamfer distance to a capture's ground-truth mesh, between first hits of the mask rays."""

    def __init__(self, capture: Capture) -> None:
        assert capture.reference_c2w is not None
        assert capture.ground_truth_mesh is not None
        self.to_dataset = Similarity(capture.scale, np.eye(3), capture.offset)
        c2w = self.to_dataset.move_cameras(capture.reference_c2w)
        rays = mask_rays(capture.masks, capture.intrinsics, c2w)
        subset = slice(None, None, -(-len(rays.view) // CHAMFER_POINTS))
        self.rays = Rays(rays.view[subset], rays.centres, rays.directions[subset])
        self.truth = point_tree(cast_rays(capture.ground_truth_mesh, self.rays).points)

    def chamfer_mm(self, trainer: Trainer, cells: int) -> float:
        """Chamfer distance of the current surface, meshed with `cells` cells along a side."""
        with torch.no_grad():
            extracted = extract_zero_level(
                trainer.surface, cells, MeshSettings(), trainer.device
            ).mesh
        mesh = Mesh(self.to_dataset(extracted.vertices), extracted.faces)
        return surface_errors(point_tree(cast_rays(mesh, self.rays).points), self.truth).chamfer
