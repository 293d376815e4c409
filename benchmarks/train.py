"""Training: a step by phase, steps a second, memory, how they grow, and what an accuracy takes."""

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
UNCOUNTED = {"cpu": 3, "cuda": 32}
"""Steps before those that are timed: on a GPU they capture graphs and size their buffers."""
CHAMFER_POINTS = 100_000
"""At most so many points of each surface are compared."""
WATCHED = (
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
"""Owner, attribute, phase."""


def run(bench: Bench) -> Iterator[Record]:
    """One step by phase; numbers of patches and levels; then a whole training."""
    sizes = bench.sizes
    capture = capture_of(sizes.views, sizes.height, sizes.width, sizes.faces)
    usual = sizes.train
    seconds, megabytes, known = timed_steps(capture, usual, bench)
    yield Record(PART, "step", WHOLE, seconds, "s", known)
    yield Record(PART, "step", WHOLE, 1 / seconds, "1/s", known)
    yield Record(PART, "step", WHOLE, megabytes, "MB", known)
    yield from _by_phase(capture, bench)
    for count in sizes.patch_counts:
        settings = changed(usual, {"patches": count})
        yield from _scaled("patches", str(count), str(usual.patches), capture, settings, bench)
    for levels in sizes.level_counts:
        settings = changed(usual, {"field": {"levels": levels}})
        reference = str(usual.field.levels)
        yield from _scaled("levels", str(levels), reference, capture, settings, bench)
    yield from _to_accuracy(capture, bench)


def changed(settings: TrainSettings, changes: dict[str, Any]) -> TrainSettings:
    """Settings with some others laid over."""
    return TrainSettings.parse(merge(settings.model_dump(), changes), "benchmarks")


def trainer_of(capture: Capture, settings: TrainSettings, device: torch.device) -> Trainer:
    """From the hull and the true poses."""
    no_distances = np.zeros(capture.masks.shape, np.float32)
    views = Views.of(capture, no_distances, device=device)
    c2w = torch.as_tensor(capture.reference_c2w, dtype=torch.float32, device=device)
    return Trainer(views, c2w, settings)


def halfway(capture: Capture, settings: TrainSettings, device: torch.device) -> Trainer:
    """As in the middle of a training, with all levels on."""
    levels = {"field": {"initial_levels": settings.field.levels}}
    trainer = trainer_of(capture, changed(settings, levels), device)
    trainer.warm_start()
    trainer.step_number = settings.steps // 2
    trainer.occupancy.refresh(trainer.surface)
    return trainer


def timed_steps(
    capture: Capture, settings: TrainSettings, bench: Bench
) -> tuple[float, float, dict[str, Any]]:
    """Seconds of a step, peak memory in MB, and what was done."""
    device, steps = bench.device, bench.sizes.steps
    with PeakMemory(device) as memory:
        trainer = halfway(capture, settings, device)
        for _ in range(UNCOUNTED[device.type]):
            trainer.step()
        synchronise(device)
        start = time.perf_counter()
        reports = [trainer.step() for _ in range(steps)]
        synchronise(device)
        seconds = (time.perf_counter() - start) / steps
    known = {
        "steps": steps,
        "patches": settings.patches,
        "patch": settings.rendering.patch,
        "levels": settings.field.levels,
        "log2_entries": settings.field.log2_entries,
        "gradient": settings.rendering.gradient,
        "samples": int(reports[-1].samples),
    }
    return seconds, memory.megabytes, known


def _by_phase(capture: Capture, bench: Bench) -> Iterator[Record]:
    steps = bench.sizes.steps
    settings = changed(bench.sizes.train, {"graph": "off"})  # a graph has no phases to look at
    trainer = halfway(capture, settings, bench.device)
    watch = Stopwatch(bench.device)
    with watch.watching(*WATCHED):
        for _ in range(UNCOUNTED[bench.device.type]):
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
    seconds, megabytes, known = timed_steps(capture, settings, bench)
    yield Record(PART, f"step, {name}", variant, seconds, "s", known, (reference,))
    yield Record(PART, f"step, {name}", variant, megabytes, "MB", known, (reference,))


def _to_accuracy(capture: Capture, bench: Bench) -> Iterator[Record]:
    """Seconds and peak memory of a training with the true poses until its surface is so near to
    the true one; looking at it is not counted."""
    sizes, device = bench.sizes, bench.device
    settings = changed(sizes.train, {"poses": {"method": "fixed"}})
    trainer, judge, watch = trainer_of(capture, settings, device), Judge(capture), Stopwatch(device)
    curve: list[Reached] = []

    def reach(go_on: Callable[[], object]) -> None:
        with PeakMemory(device) as memory, watch.phase(WHOLE):
            go_on()
        seconds, most = watch.take()[WHOLE], memory.megabytes
        if curve:
            seconds, most = seconds + curve[-1].seconds, max(most, curve[-1].megabytes)
        chamfer_mm = judge.chamfer_mm(trainer, sizes.check_cells)
        curve.append(Reached(trainer.step_number, seconds, most, chamfer_mm))

    def some_steps() -> None:
        for _ in range(min(sizes.check_every, settings.steps - trainer.step_number)):
            trainer.step()

    reach(trainer.warm_start)
    known: dict[str, Any] = {"steps": settings.steps, "patches": settings.patches}
    yield Record(PART, "training", "fit to the hull", curve[0].seconds, "s", known)
    while trainer.step_number < settings.steps:
        reach(some_steps)
    for target in sizes.targets_mm:
        first = next((reached for reached in curve if reached.chamfer_mm <= target), None)
        if first is not None:
            name = f"to a Chamfer distance of {target:g} mm"
            steps = {"steps": first.steps}
            yield Record(PART, "training", name, first.seconds, "s", steps, (WHOLE,))
            yield Record(PART, "training", name, first.megabytes, "MB", steps, (WHOLE,))
    known |= {"chamfer_mm": curve[-1].chamfer_mm, "curve": [asdict(reached) for reached in curve]}
    yield Record(PART, "training", WHOLE, curve[-1].seconds, "s", known)
    yield Record(PART, "training", WHOLE, curve[-1].megabytes, "MB", known)


@dataclass(frozen=True)
class Reached:
    """How far a training has come."""

    steps: int
    seconds: float
    megabytes: float
    """The most so far."""
    chamfer_mm: float


class Judge:
    """Chamfer distances to a capture's true surface: between points that rays of its masks hit."""

    def __init__(self, capture: Capture) -> None:
        assert capture.reference_c2w is not None
        assert capture.ground_truth_mesh is not None
        self.to_dataset = Similarity(capture.scale, np.eye(3), capture.offset)
        c2w = self.to_dataset.move_cameras(capture.reference_c2w)
        rays = mask_rays(capture.masks, capture.intrinsics, c2w)
        some = slice(None, None, -(-len(rays.view) // CHAMFER_POINTS))
        self.rays = Rays(rays.view[some], rays.centres, rays.directions[some])
        self.truth = point_tree(cast_rays(capture.ground_truth_mesh, self.rays).points)

    def chamfer_mm(self, trainer: Trainer, cells: int) -> float:
        """Of the surface as it is now, meshed with so many cells."""
        with torch.no_grad():
            found = extract_zero_level(trainer.surface, cells, MeshSettings(), trainer.device).mesh
        mesh = Mesh(self.to_dataset(found.vertices), found.faces)
        return surface_errors(point_tree(cast_rays(mesh, self.rays).points), self.truth).chamfer
