"""Descriptions of an experiment: its knowledge of the cameras, and how its result was selected."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PoseKind:
    """What an experiment knows of the cameras beforehand."""

    label: str
    kind: str
    """`given`, `disturbed` or `free`: the colour of its badge."""
    meaning: str


def pose_kind(method: str) -> PoseKind:
    """Whether an experiment's registration knows the reference poses."""
    if method == "reference":
        return PoseKind("reference poses", "given", "The true cameras are given.")
    if method == "noisy":
        return PoseKind("disturbed poses", "disturbed", "Starts from the true cameras plus noise.")
    meaning = f"No camera pose is given; registration '{method}' estimates the initial ones."
    return PoseKind("pose-free", "free", meaning)


def selection_text(
    refined: bool,
    trained: bool,
    result: int,
    last: int,
    errors: dict[int, float],
    gain: float | None = None,
    standard_error: float | None = None,
    significance: float | None = None,
) -> str:
    """Which surface is the result, and why; empty where there was no choice.

    `errors` are those of held-out normals by iteration, `gain` is their decrease from the refined
    surface to the last iteration; all in degrees. `significance` is the number of standard
    errors that a gain had to exceed in this training; None where the training did not record it.
    """
    if not trained:
        return "The refined surface is the result; this experiment trains no network."
    if not refined:
        return ""
    if 0 not in errors or last not in errors:
        name = "the refined surface" if result == 0 else f"the surface at iteration {result}"
        return f"The result is {name}."
    before, after = errors[0], errors[last]
    versus = f"{after:.2f} vs {before:.2f} degrees"
    if gain is None:
        gain = before - after
    amount = f"{gain:.3f}" if standard_error is None else f"{gain:.3f} \u00b1 {standard_error:.3f}"
    if result != 0:
        return (
            f"The network lowered the error on held-out normals by {amount} degrees ({versus}), so "
            f"its surface at iteration {result} is the result."
        )
    if gain <= 0:
        return (
            f"Kept the refined surface: the network did not lower the error on held-out normals "
            f"({versus})."
        )
    return (
        f"Kept the refined surface: the network's gain of {amount} degrees on held-out normals "
        f"({versus}) is {_shortfall(gain, standard_error, significance)}."
    )


def _shortfall(gain: float, standard_error: float | None, significance: float | None) -> str:
    """Why a positive gain (degrees) was not enough."""
    if standard_error is None:
        return "not significant"
    if significance is None:
        return "not significant or too small to matter"
    return "too small to matter" if gain > significance * standard_error else "not significant"
