"""Charts of the cameras: rotation errors of each stage, uncertainty, and registration's numbers."""

from collections.abc import Iterable

import numpy as np

from pmni.evaluation.alignment import align_rotations
from pmni.geometry.poses import Poses
from pmni.geometry.transforms import rotation_angle_deg
from pmni.io.poses import read_poses
from pmni.reporting.charts import Chart, short
from pmni.reporting.results_index import Run, load

START = "start"
"""Name of the initial poses in charts."""

MIN_LOG_AXIS_DEG = 1e-3
"""Smallest rotation error that a logarithmic axis shows, degrees."""

MIN_LOG_AXIS_RATIO = 20
"""Largest by smallest rotation error from which on the axis is logarithmic."""

Series = dict[str, dict[str, float]]
"""Numbers by stage (`start`, `refined`, `iteration 100`, ...) and view."""


def pose_series(run: Run, reference: Poses, iterations: Iterable[int]) -> Series:
    """Each view's rotation error as registered and at some iterations, degrees.

    The world is rotated so that all rotations together come closest to the reference.
    Raises Unavailable.
    """
    files = {START: run.folder.registration.poses} | {
        run.name_of(step): run.folder.poses(step) for step in iterations
    }
    series: Series = {}
    for stage, path in files.items():
        poses = load(path, read_poses)
        true_c2w = reference.select(poses.views)
        aligned = align_rotations(poses.c2w, true_c2w).move_cameras(poses.c2w)
        errors = rotation_angle_deg(aligned[:, :3, :3], true_c2w[:, :3, :3])
        series[stage] = dict(zip(poses.views, errors.tolist(), strict=True))
    return series


def pose_chart(series: Series) -> Chart:
    """Mean and largest rotation error of each stage."""
    stages = list(series)
    mean = [short(float(np.mean(list(errors.values())))) for errors in series.values()]
    largest = [short(max(errors.values())) for errors in series.values()]
    markers = {"x": stages, "mode": "lines+markers"}
    traces = [
        {"name": "mean", "y": mean, **markers},
        {"name": "largest", "y": largest, "dash": "dot", **markers},
    ]
    return _by_category("", mean, traces)


def view_chart(series: Series) -> Chart:
    """Each view's rotation error at the start, refined, and at the last iteration."""
    last = list(series)[-1]
    colours = {START: "--start", "refined": "--refined", last: "--result"}
    chosen = {stage: series[stage] for stage in colours if stage in series}
    traces = [
        {
            "name": stage,
            "x": list(errors),
            "y": [short(error) for error in errors.values()],
            "mode": "markers",
            "colour": colours[stage],
        }
        for stage, errors in chosen.items()
    ]
    return _by_category("view", [e for errors in chosen.values() for e in errors.values()], traces)


def uncertainty_deg(poses: Poses) -> dict[str, float]:
    """The standard deviation of each view's rotation from its covariance; empty without one.

    A covariance is 6 x 6, rotation (rad) first; all axes together, the root of their sum.
    """
    covariances = poses.information.get("covariance") or {}
    deviations = {}
    for view, rows in covariances.items():
        variances = np.diag(np.asarray(rows, float))[:3]
        deviations[view] = float(np.rad2deg(np.sqrt(variances.sum())))
    return deviations


def uncertainty_chart(deviations: dict[str, float], errors: dict[str, float]) -> Chart:
    """Expected rotation error of each view, and the actual error where it is known."""
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
    """Labelled numbers, flags and texts among a method's information on its poses."""
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
    """The numbers of each view among a method's information on its poses, by name."""
    all_views = set(views)
    return {
        name: {view: float(number) for view, number in value.items()}
        for name, value in information.items()
        if isinstance(value, dict)
        and value
        and set(value) <= all_views
        and all(isinstance(number, int | float) for number in value.values())
    }


def number_chart(name: str, numbers: dict[str, float]) -> Chart:
    """One number of each view."""
    values = [short(number) for number in numbers.values()]
    trace = {"name": name, "x": list(numbers), "y": values, "mode": "markers"}
    return _by_category("view", [], [trace]) | {"y": ""}


def _by_category(x: str, spread: list[float], traces: list[dict]) -> Chart:
    """Degrees over named places or views, on a logarithmic axis if they spread far."""
    log = (
        bool(spread)
        and min(spread) > MIN_LOG_AXIS_DEG
        and max(spread) > MIN_LOG_AXIS_RATIO * min(spread)
    )
    chart: Chart = {"kind": "line", "x": x, "y": "degrees", "log": log}
    return chart | {"categories": True, "plain": True, "traces": traces}
