"""Everything that changes over a training, as pure functions of the step: resuming is exact."""

import math

from pmni.config.training import FieldSettings, PhaseSettings, TrainSettings


def progress(step: int, settings: TrainSettings) -> float:
    """The fraction of the steps done before `step` (the first step is 0)."""
    return step / max(1, settings.steps - 1)


def phase_at(step: int, settings: TrainSettings) -> PhaseSettings:
    """The phase that a step belongs to."""
    done = step / settings.steps
    return next(phase for phase in settings.phases if done < phase.until)


def rate_factor(step: int, settings: TrainSettings) -> float:
    """Linear warm-up, then a cosine from 1 to `final_rate`."""
    if step < settings.warm_up:
        return (step + 1) / settings.warm_up
    done = (step - settings.warm_up) / max(1, settings.steps - settings.warm_up)
    cosine = (1 + math.cos(math.pi * done)) / 2
    return settings.final_rate + (1 - settings.final_rate) * cosine


def active_levels(step: int, field: FieldSettings) -> int:
    """Coarse to fine: how many levels of the encoding are on."""
    return min(field.levels, field.initial_levels + step // field.increase_bandwidth_every)


def log_linear(start: float, end: float, fraction: float) -> float:
    """From start to end, linear in the logarithm."""
    return start * (end / start) ** min(1.0, fraction)
