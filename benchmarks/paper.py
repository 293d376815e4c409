"""Mean time of a training step in the schedule that PMNI's authors published.

The number of samples grows over the 30,000 steps as the density becomes sharper. To save time, the
training runs with an eighth of the rays (`base`). At regular intervals its state is copied into a
second trainer with all rays (`timed`), a few of whose steps are timed.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.bench import Bench
from benchmarks.records import Record
from benchmarks.surfaces import capture_of
from benchmarks.timing import PeakMemory, synchronise
from benchmarks.train import WARM_UP_STEPS, with_changes
from pmni.config.experiment import load_experiment
from pmni.config.training import TrainSettings
from pmni.data.capture import Capture
from pmni.data.views import Views
from pmni.registration.perturbation import add_noise
from pmni.training.trainer import Trainer

PART, EXPERIMENT, FIRST = "paper", "pmni-paper", "after 0"
RAY_RATIO = 8
"""Ratio of the numbers of rays in a timed step and in the others."""
TIMED = 16
"""Number of steps timed together; two of them refresh the occupancy grid."""
ERROR_DEG, ERROR_DISTANCE = 1.2, 0.005
"""Standard deviations of the initial poses: rotation, degrees; centre, fraction of the distance."""


def run(bench: Bench) -> Iterator[Record]:
    """Time steps at regular intervals and their mean; nothing if `Sizes.paper` is None."""
    sizes, device = bench.sizes, bench.device
    if sizes.paper is None:
        return
    settings = load_experiment(EXPERIMENT, {"train": sizes.paper}).train
    assert settings is not None
    capture = capture_of(sizes.views, sizes.height, sizes.width, sizes.faces)
    base = trainer_of(
        capture, with_changes(settings, {"patches": settings.patches // RAY_RATIO}), device
    )
    timed = trainer_of(capture, settings, device)
    name, most = f"step of {EXPERIMENT}", 0.0
    curve: dict[int, float] = {}
    for step in range(settings.steps - TIMED - WARM_UP_STEPS[device.type] + 1):
        if step % sizes.paper_every == 0:
            each, megabytes, samples = step_with_all_rays(timed, base)
            parameters = {
                "samples": samples,
                "levels": timed.network.active,
                "megabytes": round(megabytes),
            }
            yield Record(PART, name, f"after {step}", each, "s", parameters, (FIRST,))
            curve[step], most = each, max(most, megabytes)
        base.step()
    mean = float(np.interp(range(max(curve) + 1), list(curve), list(curve.values())).mean())
    parameters = {"steps": settings.steps, "rays": settings.patches * settings.rendering.patch**2}
    yield Record(PART, name, "mean", mean, "s", parameters, (FIRST,))
    yield Record(PART, name, "most", most, "MB", parameters)


def trainer_of(capture: Capture, settings: TrainSettings, device: torch.device) -> Trainer:
    """A trainer after its warm start, from slightly wrong poses and exact ray distances."""
    assert capture.reference_c2w is not None
    assert capture.ray_distances is not None
    views = Views.of(capture, capture.ray_distances, device=device)
    rng = np.random.default_rng(0)
    start = add_noise(capture.reference_c2w, ERROR_DEG, ERROR_DISTANCE, rng)
    trainer = Trainer(views, torch.as_tensor(start, dtype=torch.float32, device=device), settings)
    trainer.warm_start()
    return trainer


def step_with_all_rays(timed: Trainer, base: Trainer) -> tuple[float, float, int]:
    """Seconds of a step of `timed` from the state of `base`, peak MB, and number of samples."""
    state = base.state()
    if "capacities" in state and base.step_number:
        state["capacities"]["planes"] *= RAY_RATIO
    timed.restore(state)
    with PeakMemory(timed.device) as memory:  # that of CUDA graphs included
        for _ in range(WARM_UP_STEPS[timed.device.type]):
            timed.step()
        synchronise(timed.device)
        start = time.perf_counter()
        for _ in range(TIMED):
            report = timed.step()
        synchronise(timed.device)
        seconds = (time.perf_counter() - start) / TIMED
    return seconds, memory.megabytes, int(report.samples)
