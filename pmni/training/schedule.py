"""Everything that changes over a training, as pure functions of the step: resuming is exact."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.training import FieldSettings, PhaseSettings, TrainSettings


def progress(step: int, settings: TrainSettings) -> float:
    """The fraction of the steps done before `step` (the first step is 0)."""
    return step / max(1, settings.steps - 1)


def phase_number(step: int, settings: TrainSettings) -> int:
    """Which phase a step belongs to."""
    done = step / settings.steps
    return next(number for number, phase in enumerate(settings.phases) if done < phase.until)


def phase_at(step: int, settings: TrainSettings) -> PhaseSettings:
    """The phase that a step belongs to."""
    return settings.phases[phase_number(step, settings)]


def rate_factor(step: int, settings: TrainSettings) -> float:
    """Factor of the learning rates: linear warm-up, then a cosine to `final_fraction`."""
    if step < settings.optimizer.warm_up_steps:
        return (step + 1) / settings.optimizer.warm_up_steps
    done = (step - settings.optimizer.warm_up_steps) / max(
        1, settings.steps - settings.optimizer.warm_up_steps
    )
    cosine = (1 + math.cos(math.pi * done)) / 2
    return settings.optimizer.final_fraction + (1 - settings.optimizer.final_fraction) * cosine


def active_levels(step: int, field: FieldSettings) -> int:
    """Coarse to fine: how many levels of the encoding are on."""
    return min(field.levels, field.initial_levels + step // field.increase_bandwidth_every)


def log_linear(start: float, end: float, fraction: float) -> float:
    """From start to end, linear in the logarithm."""
    return start * (end / start) ** min(1.0, fraction)


def inverse_width(step: int, settings: TrainSettings) -> float:
    """The scheduled sharpness inv_s."""
    sharpness = settings.sharpness
    return log_linear(sharpness.start, sharpness.end, progress(step, settings))


def spacing(step: int, settings: TrainSettings) -> float:
    """The distance between planes."""
    rendering = settings.rendering
    return log_linear(rendering.step_start, rendering.step_end, progress(step, settings))


def moving(step: int, settings: TrainSettings) -> bool:
    """Whether poses move."""
    return step >= settings.poses.start * settings.steps


COLUMNS = (
    rate_factor,
    lambda step, settings: (
        phase_at(step, settings).pose_learning_rate * rate_factor(step, settings)
    ),
    moving,
    spacing,
    inverse_width,
)


def table(settings: TrainSettings) -> Float[Tensor, "steps 5"]:
    """For all steps: the factor of the learning rates, the poses' learning rate, whether poses move
    (1) or not (0), the distance between planes, the scheduled sharpness."""
    rows = [[float(of(step, settings)) for of in COLUMNS] for step in range(settings.steps)]
    return torch.tensor(rows)
