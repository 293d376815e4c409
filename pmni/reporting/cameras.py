"""How the cameras moved: their errors at each stage, their uncertainty, what registration says."""

from collections.abc import Iterable

import numpy as np

from pmni.evaluation.alignment import align_rotations
from pmni.geometry.poses import Poses
from pmni.geometry.transforms import rotation_angle_deg
from pmni.io.poses import read_poses
from pmni.reporting.charts import Chart, short
from pmni.reporting.sources import Run, load

START = "start"
Series = dict[str, dict[str, float]]
"""By place (`start`, `refined`, `iteration 100`, ...) and view."""


def pose_series(run: Run, reference: Poses, iterations: Iterable[int]) -> Series:
    """Each view's rotation error as registered and at some iterations, degrees.

    The world is turned so that all rotations together come closest. Raises Unavailable.
    """
    files = {START: run.folder.registration.poses} | {
        run.name_of(step): run.folder.poses(step) for step in iterations
    }
    series: Series = {}
    for place, path in files.items():
        poses = load(path, read_poses)
        truth = reference.select(poses.views)
        moved = align_rotations(poses.c2w, truth).move_cameras(poses.c2w)
        errors = rotation_angle_deg(moved[:, :3, :3], truth[:, :3, :3])
        series[place] = dict(zip(poses.views, errors.tolist(), strict=True))
    return series


def pose_chart(series: Series) -> Chart:
    """Mean and largest rotation error, place by place."""
    places = list(series)
    mean = [short(float(np.mean(list(errors.values())))) for errors in series.values()]
    largest = [short(max(errors.values())) for errors in series.values()]
    markers = {"x": places, "mode": "lines+markers"}
    traces = [
        {"name": "mean", "y": mean, **markers},
        {"name": "largest", "y": largest, "dash": "dot", **markers},
    ]
    return _by_category("", mean, traces)


def view_chart(series: Series) -> Chart:
    """Each view's rotation error as registered, refined and at last."""
    last = list(series)[-1]
    colours = {START: "--start", "refined": "--refined", last: "--result"}
    shown = {place: series[place] for place in colours if place in series}
    traces = [
        {
            "name": place,
            "x": list(errors),
            "y": [short(error) for error in errors.values()],
            "mode": "markers",
            "colour": colours[place],
        }
        for place, errors in shown.items()
    ]
    return _by_category("view", [e for errors in shown.values() for e in errors.values()], traces)


def uncertainty_deg(poses: Poses) -> dict[str, float]:
    """The standard deviation of each view's rotation from its covariance; empty without one.

    A covariance is 6 x 6, rotation (rad) first; all axes together, the root of their sum.
    """
    told = poses.information.get("covariance") or {}
    deviations = {}
    for view, rows in told.items():
        variances = np.diag(np.asarray(rows, float))[:3]
        deviations[view] = float(np.rad2deg(np.sqrt(variances.sum())))
    return deviations


def uncertainty_chart(deviations: dict[str, float], errors: dict[str, float]) -> Chart:
    """What the refinement expects each rotation to be off by, and what it is where known."""
    traces = []
    for name, values, colour in (
        ("expected", deviations, "--refined"),
        ("actual", errors, "--reference"),
    ):
        numbers = [short(value) for value in values.values()]
        if numbers:
            trace = {"name": name, "x": list(values), "y": numbers, "mode": "markers"}
            traces.append(trace | {"colour": colour})
    return _by_category("view", [], traces)


def facts_of(information: dict[str, object]) -> list[str]:
    """The numbers and words among what a method says of its poses."""
    facts = []
    for name, value in information.items():
        label = name.replace("_", " ")
        if isinstance(value, bool):
            facts.append(f"{label}: {'yes' if value else 'no'}")
        elif isinstance(value, float):
            facts.append(f"{label} {value:.3g}")
        elif isinstance(value, int | str):
            facts.append(f"{label} {value}")
    return facts


def numbers_by_view(information: dict[str, object], views: Iterable[str]) -> Series:
    """What a method says of each view in a number, by its name."""
    known = set(views)
    return {
        name: {view: float(number) for view, number in value.items()}
        for name, value in information.items()
        if isinstance(value, dict)
        and value
        and set(value) <= known
        and all(isinstance(number, int | float) for number in value.values())
    }


def number_chart(name: str, numbers: dict[str, float]) -> Chart:
    """One number of each view."""
    values = [short(number) for number in numbers.values()]
    trace = {"name": name, "x": list(numbers), "y": values, "mode": "markers"}
    return _by_category("view", [], [trace]) | {"y": ""}


def _by_category(x: str, spread: list[float], traces: list[dict]) -> Chart:
    """Degrees over named places or views, on a logarithmic axis if they spread far."""
    log = bool(spread) and min(spread) > 1e-3 and max(spread) > 20 * min(spread)
    chart: Chart = {"kind": "line", "x": x, "y": "degrees", "log": log}
    return chart | {"categories": True, "plain": True, "traces": traces}
