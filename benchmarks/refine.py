"""Refinement: seconds by phase and grid, memory, and how they grow with views and pixels."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bench import Bench
from benchmarks.records import Record
from benchmarks.surfaces import capture_of, with_views
from benchmarks.timing import PeakMemory, Stopwatch
from pmni.data.capture import Capture, load_capture, save_capture
from pmni.data.resize import resized
from pmni.data.views import Views
from pmni.refinement import solver as stage
from pmni.refinement.initial_surface import initial_hull
from pmni.refinement.observations import Observations
from pmni.refinement.schedule import coarse_to_fine
from pmni.refinement.solver import GaussNewtonSolver
from pmni.registration.perturbation import add_view_errors

PART, WHOLE, REST = "refine", "whole", "rest"
ERROR_DEG, ERROR_DISTANCE = (1.0, 3.0), 0.01
"""Errors of the initial poses: range of rotation, degrees; relative distance."""
TIMED_FUNCTIONS = (
    (GaussNewtonSolver, "linearize", "linearize"),
    (stage, "NormalEquations", "equations"),
    (stage.NormalEquations, "solve", "solve"),
    (stage.State, "retract", "retract"),
    (stage, "resample", "change grids"),
)
"""Timed functions: owner, attribute, name of the phase."""


@dataclass(frozen=True)
class Refinement:
    """Time and memory of one refinement."""

    spent: dict[str, dict[str, float]]
    """Seconds by step (`load`, `hull`, each grid), then by phase."""
    megabytes: float
    parameters: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Total time."""
        return sum(sum(phases.values()) for phases in self.spent.values())


def run(bench: Bench) -> Iterator[Record]:
    """Refine the default capture by phase, then vary the numbers of views and pixels."""
    sizes = bench.sizes
    most = max(sizes.view_counts)
    largest = capture_of(most, sizes.height, sizes.width, sizes.faces)
    default = with_views(largest, sizes.views)
    time_refinement(with_views(largest, min(sizes.view_counts)), bench)  # warm-up
    yield from _by_phase(default, bench)
    for count in sizes.view_counts:
        refinement = time_refinement(with_views(largest, count), bench)
        yield from _records("views", str(count), refinement, str(sizes.views))
    for factor in sizes.image_factors:
        capture = resized(default, factor)
        refinement = time_refinement(capture, bench)
        yield from _records("image size", _size(capture), refinement, _size(default))


def _by_phase(capture: Capture, bench: Bench) -> Iterator[Record]:
    refinement = time_refinement(capture, bench)
    yield from _records("usual capture", WHOLE, refinement, WHOLE)
    for grid, phases in refinement.spent.items():
        seconds = sum(phases.values())
        yield Record(PART, "usual capture", grid, seconds, "s", refinement.parameters, (WHOLE,))
    # A separate run: timing by phase synchronises the GPU more often.
    refinement = time_refinement(capture, bench, detailed=True)
    name = "usual capture by phase"
    yield Record(PART, name, WHOLE, refinement.seconds, "s", refinement.parameters)
    for grid, phases in refinement.spent.items():
        for phase, seconds in phases.items():
            full = f"{grid}: {phase}" if phase != REST or len(phases) > 1 else grid
            yield Record(PART, name, full, seconds, "s", refinement.parameters, (WHOLE,))


def _records(name: str, variant: str, refinement: Refinement, reference: str) -> Iterator[Record]:
    yield Record(PART, name, variant, refinement.seconds, "s", refinement.parameters, (reference,))
    yield Record(
        PART, name, variant, refinement.megabytes, "MB", refinement.parameters, (reference,)
    )


def _size(capture: Capture) -> str:
    _, height, width = capture.masks.shape
    return f"{width} x {height}"


def time_refinement(capture: Capture, bench: Bench, detailed: bool = False) -> Refinement:
    """Time and memory of a refinement from a capture's file and perturbed poses."""
    assert capture.reference_c2w is not None
    rng = np.random.default_rng(0)
    start = add_view_errors(capture.reference_c2w, ERROR_DEG, ERROR_DISTANCE, rng)
    c2w = torch.as_tensor(start, device=bench.device)
    watch = Stopwatch(bench.device)
    spent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def note(what: str) -> None:
        for phase, seconds in watch.take().items():
            spent[what][phase] += seconds

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        save_capture(folder, capture)
        memory = stack.enter_context(PeakMemory(bench.device))
        stack.enter_context(watch.phase(REST))
        observations = Observations.of(Views.of(load_capture(folder), device=bench.device))
        note("load")
        surface = initial_hull(observations, c2w, bench.sizes.refine.visual_hull)
        note("hull")
        if detailed:
            stack.enter_context(watch.watching(*TIMED_FUNCTIONS))
        sizes = bench.sizes
        solver = GaussNewtonSolver(observations, surface, c2w, sizes.refine)
        steps = 0
        for report in coarse_to_fine(solver):
            note(f"{report.cells} cells")
            steps += 1
    parameters = {
        "views": len(observations),
        "size": _size(capture),
        "pixels": len(observations.pixels),
        "drawn": solver.pixels,
        "iterations": steps,
        "cells": solver.cells,
    }
    return Refinement(
        {what: dict(phases) for what, phases in spent.items()}, memory.megabytes, parameters
    )
