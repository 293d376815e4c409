"""The schedule of a training: pure functions of the step, so that resuming is exact."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.training import FieldSettings, PhaseSettings, TrainSettings


def progress(step: int, settings: TrainSettings) -> float:
    """The fraction of the steps done before `step` (the first step is 0)."""
    return step / max(1, settings.steps - 1)


def phase_index(step: int, settings: TrainSettings) -> int:
    """Index of the phase that a step belongs to."""
    done = step / settings.steps
    return next(index for index, phase in enumerate(settings.phases) if done < phase.until)


def phase_at(step: int, settings: TrainSettings) -> PhaseSettings:
    """The phase that a step belongs to."""
    return settings.phases[phase_index(step, settings)]


def rate_factor(step: int, settings: TrainSettings) -> float:
    """Factor of the learning rates: linear warm-up, then a cosine to `final_fraction`."""
    warm_up, final = settings.optimizer.warm_up_steps, settings.optimizer.final_fraction
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, settings.steps - warm_up)
    cosine = (1 + math.cos(math.pi * done)) / 2
    return final + (1 - final) * cosine


def active_levels(step: int, field: FieldSettings) -> int:
    """Coarse to fine: number of active levels of the encoding."""
    return min(field.levels, field.initial_levels + step // field.increase_bandwidth_every)


def log_linear(start: float, end: float, fraction: float) -> float:
    """Interpolation from start to end, linear in the logarithm."""
    return start * (end / start) ** min(1.0, fraction)


def scheduled_sharpness(step: int, settings: TrainSettings) -> float:
    """inv_s of the mode `scheduled`."""
    sharpness = settings.sharpness
    return log_linear(sharpness.start, sharpness.end, progress(step, settings))


def plane_spacing(step: int, settings: TrainSettings) -> float:
    """Distance between planes, normalised units."""
    rendering = settings.rendering
    return log_linear(rendering.step_start, rendering.step_end, progress(step, settings))


def poses_move(step: int, settings: TrainSettings) -> bool:
    """Whether poses are optimised in a step."""
    return step >= settings.poses.start * settings.steps


def pose_learning_rate(step: int, settings: TrainSettings) -> float:
    """Learning rate of the poses."""
    return phase_at(step, settings).pose_learning_rate * rate_factor(step, settings)


COLUMNS = (rate_factor, pose_learning_rate, poses_move, plane_spacing, scheduled_sharpness)
"""Functions of the step that are tabulated."""


def table(settings: TrainSettings) -> Float[Tensor, "steps 5"]:
    """The values of `COLUMNS` at all steps; `poses_move` is 1 or 0."""
    rows = [[float(column(step, settings)) for column in COLUMNS] for step in range(settings.steps)]
    return torch.tensor(rows)
