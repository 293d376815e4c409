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
"""Of the poses that it starts from."""
WATCHED = (
    (GaussNewtonSolver, "linearize", "linearize"),
    (stage, "NormalEquations", "equations"),
    (stage.NormalEquations, "solve", "solve"),
    (stage.State, "retract", "retract"),
    (stage, "resample", "change grids"),
)
"""Owner, attribute, phase."""


@dataclass(frozen=True)
class Refinement:
    """What one took."""

    spent: dict[str, dict[str, float]]
    """Seconds of each phase of loading, of the hull, and of each grid."""
    megabytes: float
    known: dict[str, Any]

    @property
    def seconds(self) -> float:
        """All together."""
        return sum(sum(phases.values()) for phases in self.spent.values())


def run(bench: Bench) -> Iterator[Record]:
    """The usual capture by phase, then more and fewer views, and larger and smaller images."""
    sizes = bench.sizes
    most = max(sizes.view_counts)
    largest = capture_of(most, sizes.height, sizes.width, sizes.faces)
    usual = with_views(largest, sizes.views)
    refined(with_views(largest, min(sizes.view_counts)), bench)  # not counted: kernels are built
    yield from _by_phase(usual, bench)
    for count in sizes.view_counts:
        found = refined(with_views(largest, count), bench)
        yield from _records("views", str(count), found, str(sizes.views))
    for factor in sizes.image_factors:
        capture = resized(usual, factor)
        found = refined(capture, bench)
        yield from _records("image size", _size(capture), found, _size(usual))


def _by_phase(capture: Capture, bench: Bench) -> Iterator[Record]:
    found = refined(capture, bench)
    yield from _records("usual capture", WHOLE, found, WHOLE)
    for grid, phases in found.spent.items():
        seconds = sum(phases.values())
        yield Record(PART, "usual capture", grid, seconds, "s", found.known, (WHOLE,))
    # Once more: the clock is looked at more often, for which a GPU has to be waited for.
    found = refined(capture, bench, detailed=True)
    name = "usual capture by phase"
    yield Record(PART, name, WHOLE, found.seconds, "s", found.known)
    for grid, phases in found.spent.items():
        for phase, seconds in phases.items():
            full = f"{grid}: {phase}" if phase != REST or len(phases) > 1 else grid
            yield Record(PART, name, full, seconds, "s", found.known, (WHOLE,))


def _records(name: str, variant: str, found: Refinement, reference: str) -> Iterator[Record]:
    yield Record(PART, name, variant, found.seconds, "s", found.known, (reference,))
    yield Record(PART, name, variant, found.megabytes, "MB", found.known, (reference,))


def _size(capture: Capture) -> str:
    _, height, width = capture.masks.shape
    return f"{width} x {height}"


def refined(capture: Capture, bench: Bench, detailed: bool = False) -> Refinement:
    """A capture refined from a file and wrong poses, as the stage does it."""
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
            stack.enter_context(watch.watching(*WATCHED))
        sizes = bench.sizes
        solver = GaussNewtonSolver(observations, surface, c2w, sizes.refine)
        steps = 0
        for report in coarse_to_fine(solver):
            note(f"{report.cells} cells")
            steps += 1
    known = {
        "views": len(observations),
        "size": _size(capture),
        "pixels": len(observations.pixels),
        "drawn": solver.pixels,
        "iterations": steps,
        "cells": solver.cells,
    }
    return Refinement(
        {what: dict(phases) for what, phases in spent.items()}, memory.megabytes, known
    )
