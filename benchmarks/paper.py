"""The schedule that PMNI's authors published: how long a step takes, in the mean over all of them.

The number of samples grows over the 30,000 steps with how sharp the surface has become. They are
done with a part of the rays; now and then steps with all rays are timed, which go on from there and
are then forgotten.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.bench import Bench
from benchmarks.records import Record
from benchmarks.surfaces import capture_of
from benchmarks.timing import PeakMemory, synchronise
from benchmarks.train import UNCOUNTED, changed
from pmni.config.experiment import load_experiment
from pmni.config.training import TrainSettings
from pmni.data.capture import Capture
from pmni.data.views import Views
from pmni.registration.perturbation import add_noise
from pmni.training.trainer import Trainer

PART, EXPERIMENT, FIRST = "paper", "pmni-paper", "after 0"
FEWER = 8
"""Times as many rays are in a step that is timed as in the others."""
TIMED = 16
"""Steps that are timed together: two of them refresh the occupancy grid."""
ERROR_DEG, ERROR_DISTANCE = 1.2, 0.005
"""Of the poses that it starts from."""


def run(bench: Bench) -> Iterator[Record]:
    """Steps with all rays at several times, and their mean; nothing where that would take hours."""
    sizes, device = bench.sizes, bench.device
    if sizes.paper is None:
        return
    settings = load_experiment(EXPERIMENT, {"train": sizes.paper}).train
    assert settings is not None
    capture = capture_of(sizes.views, sizes.height, sizes.width, sizes.faces)
    going = trainer_of(capture, changed(settings, {"patches": settings.patches // FEWER}), device)
    timed = trainer_of(capture, settings, device)
    name, most = f"step of {EXPERIMENT}", 0.0
    curve: dict[int, float] = {}
    for step in range(settings.steps - TIMED - UNCOUNTED[device.type] + 1):
        if step % sizes.paper_every == 0:
            each, megabytes, samples = step_with_all_rays(timed, going)
            known = {
                "samples": samples,
                "levels": timed.network.active,
                "megabytes": round(megabytes),
            }
            yield Record(PART, name, f"after {step}", each, "s", known, (FIRST,))
            curve[step], most = each, max(most, megabytes)
        going.step()
    mean = float(np.interp(range(max(curve) + 1), list(curve), list(curve.values())).mean())
    known = {"steps": settings.steps, "rays": settings.patches * settings.rendering.patch**2}
    yield Record(PART, name, "mean", mean, "s", known, (FIRST,))
    yield Record(PART, name, "most", most, "MB", known)


def trainer_of(capture: Capture, settings: TrainSettings, device: torch.device) -> Trainer:
    """From nearly true poses; true distances stand for integrated ones."""
    assert capture.reference_c2w is not None
    assert capture.ray_distances is not None
    views = Views.of(capture, capture.ray_distances, device=device)
    rng = np.random.default_rng(0)
    start = add_noise(capture.reference_c2w, ERROR_DEG, ERROR_DISTANCE, rng)
    trainer = Trainer(views, torch.as_tensor(start, dtype=torch.float32, device=device), settings)
    trainer.warm_start()
    return trainer


def step_with_all_rays(timed: Trainer, going: Trainer) -> tuple[float, float, int]:
    """Seconds of a step from where a training is, megabytes, and the samples of the last step."""
    state = going.state()
    if "capacities" in state and going.step_number:
        state["capacities"]["planes"] *= FEWER
    timed.restore(state)
    with PeakMemory(timed.device) as memory:  # with that of graphs, which capture takes
        for _ in range(UNCOUNTED[timed.device.type]):
            timed.step()
        synchronise(timed.device)
        start = time.perf_counter()
        for _ in range(TIMED):
            report = timed.step()
        synchronise(timed.device)
        seconds = (time.perf_counter() - start) / TIMED
    return seconds, memory.megabytes, int(report.samples)
