"""What a result has cost: seconds and memory, from the provenance of the stages."""

from collections.abc import Callable, Sequence

from pmni.evaluation.metrics.quantity import CostMetric, Provenance


def _seconds_of(name: str) -> Callable[[Sequence[Provenance]], float | None]:
    """Wall time of the stage of that name, from the provenance of all stages."""

    def compute(stages: Sequence[Provenance]) -> float | None:
        seconds = [stage.get("seconds") for stage in stages if stage.get("stage") == name]
        return seconds[-1] if seconds else None

    return compute


def _total_seconds(stages: Sequence[Provenance]) -> float | None:
    seconds = [stage["seconds"] for stage in stages if "seconds" in stage]
    return round(sum(seconds), 3) if seconds else None


def _peak_memory(stages: Sequence[Provenance]) -> float | None:
    memory = [stage["peak_memory_mb"] for stage in stages if "peak_memory_mb" in stage]
    return max(memory, default=None)


REFINE_SECONDS = CostMetric(
    key="refine_seconds",
    label="Refinement",
    unit="s",
    direction="lower",
    format=",.1f",
    meaning="Wall time of the refinement.",
    leading=True,
    compute=_seconds_of("refine"),
)
TRAIN_SECONDS = CostMetric(
    key="train_seconds",
    label="Training",
    unit="s",
    direction="lower",
    format=",.1f",
    meaning="Wall time of the training.",
    leading=True,
    compute=_seconds_of("train"),
)
TOTAL_SECONDS = CostMetric(
    key="total_seconds",
    label="Time",
    unit="s",
    direction="lower",
    format=",.1f",
    meaning="Wall time of all stages of this object.",
    leading=True,
    compute=_total_seconds,
)
PEAK_MEMORY = CostMetric(
    key="peak_memory_mb",
    label="Peak memory",
    unit="MB",
    direction="lower",
    format=",.0f",
    meaning="Most memory that a stage has used.",
    leading=True,
    compute=_peak_memory,
)
