"""Evaluation of a mesh and poses, which runs on the CPU: seconds by phase."""

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.bench import Bench
from benchmarks.records import Record
from benchmarks.surfaces import capture_of
from benchmarks.timing import PeakMemory, Stopwatch
from pmni.config.evaluation import EvaluateSettings
from pmni.evaluation import evaluate as stage
from pmni.evaluation import surface_alignment
from pmni.geometry.mesh import Mesh
from pmni.geometry.poses import Poses
from pmni.registration.perturbation import add_noise

PART, WHOLE, REST = "evaluate", "whole", "rest"
TIMED_FUNCTIONS = (
    (stage, "cast_rays", "rays on meshes"),
    (surface_alignment, "icp", "ICP"),
    (stage, "point_tree", "build trees"),
    (stage, "surface_errors", "nearest points"),
    (stage, "distance_to_surface", "vertices to the surface"),
    (stage, "nearest_distance", "vertices to the surface"),
)
"""Timed functions: owner, attribute, name of the phase."""


def run(bench: Bench) -> Iterator[Record]:
    """Evaluate a perturbed ground-truth mesh with perturbed poses, with and without ICP."""
    sizes, cpu = bench.sizes, torch.device("cpu")
    capture = capture_of(sizes.views, sizes.height, sizes.width, sizes.faces)
    assert capture.reference_c2w is not None
    truth = capture.ground_truth_mesh
    assert truth is not None
    rng = np.random.default_rng(0)
    noise = 0.05 * rng.standard_normal(truth.vertices.shape)
    mesh = Mesh(truth.vertices + noise, truth.faces)
    poses = Poses(capture.views, add_noise(capture.reference_c2w, 0.1, 1e-4, rng))
    parameters = {
        "views": sizes.views,
        "size": f"{sizes.width} x {sizes.height}",
        "rays": int(capture.masks.sum()),
        "vertices": len(mesh.vertices),
    }
    for alignment in ("icp", "none"):
        settings = EvaluateSettings.parse({"alignment": alignment}, "benchmarks")
        watch, name = Stopwatch(cpu), f"alignment {alignment}"
        with PeakMemory(cpu) as memory, watch.watching(*TIMED_FUNCTIONS), watch.phase(REST):
            stage.evaluate(capture, mesh, poses, None, settings)
        phases = watch.take()
        yield Record(PART, name, WHOLE, sum(phases.values()), "s", parameters)
        yield Record(PART, name, WHOLE, memory.megabytes, "MB", parameters)
        for phase, seconds in phases.items():
            yield Record(PART, name, phase, seconds, "s", {}, (WHOLE,))
