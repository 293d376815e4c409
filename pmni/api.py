"""The public functions: a whole reconstruction in memory, and each of its stages.

The stages are the functions of the packages below, which the command line calls as well.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from pmni.config.base import merge
from pmni.config.experiment import Experiment, load_experiment
from pmni.config.extensions import METHODS
from pmni.data.capture import Capture
from pmni.data.validation import validated
from pmni.errors import InputError
from pmni.evaluation.evaluate import evaluate
from pmni.exporting.scene import cameras_of
from pmni.integration.integrate import integrate
from pmni.meshing.extract import extract_mesh
from pmni.reconstruction import Reconstruction, assemble
from pmni.refinement.refine import refine
from pmni.registration.register import register
from pmni.runtime.devices import acquire_device, check_device
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.network import NeuralSDF
from pmni.sdf.residual import ResidualSDF
from pmni.training.train import train

__all__ = ["evaluate", "extract_mesh", "integrate", "reconstruct", "refine", "register", "train"]

Progress = Callable[[str], None]


def reconstruct(
    capture: Capture,
    experiment: str | Experiment = "fast",
    *,
    overrides: Mapping[str, Any] | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Reconstruction:
    """Surface and camera poses of a capture: the stages of the workflow, in memory.

    Args:
        capture: Normals, masks and intrinsics; reference poses where the experiment asks for them.
        experiment: The name of an experiment (`pmni.experiment_names()`), or your own settings.
        overrides: Settings laid over a named experiment, such as {"refine": {"cells": 128}}.
        device: Where to compute, "cpu" or "cuda"; None takes what the experiment says, which is a
            GPU if there is one.
        progress: Called with a line of text from time to time, for example `print`.

    Raises:
        InputError: The capture or the settings cannot be used.
        ConvergenceError: The views do not determine the poses, or do not fit one surface.
        MissingBackendError: There is no such device.
    """
    settings = _experiment(experiment, overrides or {}, device)
    for stage in (settings.refine, settings.train):
        if stage is not None:
            check_device(stage.device)
    capture = validated(capture)
    report: Progress = progress if progress is not None else lambda _: None

    needs_distances = METHODS[settings.registration.method].needs_ray_distances
    distances: Float[np.ndarray, "V H W"] | None = None
    if needs_distances or settings.train is not None:
        report("integrating normals")
        distances = integrate(capture).ray_distances
    report("finding initial poses")
    initial = register(capture, distances, settings.registration, progress)
    poses, surface, iteration, result_device = initial, None, 0, torch.device("cpu")
    if settings.refine is not None:
        report("refining poses and surface")
        with acquire_device(settings.refine.device) as result_device:
            refinement = refine(capture, initial, settings.refine, result_device, progress)
        poses, surface = refinement.poses, refinement.surface
    result: NarrowBandSDF | NeuralSDF | ResidualSDF | None = surface
    if settings.train is not None:
        report("training the neural SDF")
        with acquire_device(settings.train.device) as result_device:
            training = train(
                capture, distances, poses, surface, settings.train, result_device, progress=progress
            )
        if surface is None or training.selection.iteration:
            iteration = max(training.kept)
            poses, result = training.final.poses, training.final.surface
    assert result is not None
    report("extracting the mesh")
    mesh = extract_mesh(result, settings.mesh, capture.scale, capture.offset, result_device)
    cameras = cameras_of(capture, poses, "reconstruct")
    return assemble(capture.name, mesh, cameras, result, iteration, initial, result_device)


def _experiment(
    experiment: str | Experiment, overrides: Mapping[str, Any], device: str | None
) -> Experiment:
    """The settings of all stages. Raises InputError for overrides of an experiment's object."""
    if not isinstance(experiment, str):
        if overrides or device:
            raise InputError("overrides and device change a named experiment, not an Experiment")
        return experiment
    if device is not None:
        stages = {stage: {"device": device} for stage in ("refine", "train", "mesh", "render")}
        overrides = merge(stages, dict(overrides))
    return load_experiment(experiment, dict(overrides))
