"""Charts as plain data; `charts.js` draws them in the page's colours."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pmni.config.training import LossWeights
from pmni.evaluation.alignment import align_rotations
from pmni.io.poses import Poses, read_poses
from pmni.lie import rotation_angle_deg
from pmni.reporting.sources import Run, StageState, load

Chart = dict[str, Any]
POINTS = 600
NOISY = 60
"""Losses of random patches with this many points are drawn faintly, their running mean on top."""
CLOCKS = ("step", "iteration", "seconds")


def read_history(path: Path) -> pd.DataFrame:
    """The training history with at least the column `step`; numeric columns only."""
    table = pd.read_csv(path)
    if "step" not in table or table.empty:
        raise ValueError("has no column 'step', or no rows")
    numeric = table.select_dtypes("number").dropna(axis="columns", how="all")
    keep = np.unique(np.linspace(0, len(numeric) - 1, POINTS).round().astype(int))
    return numeric.iloc[keep]


LOSSES = ("loss", *LossWeights.model_fields)
TITLES = {
    "inv_s": "Sharpness of the density, inv_s",
    "levels": "Levels of the hash grid",
    "samples": "Samples in a step",
    "pose_rotation_deg": "Turn of the cameras since the start, degrees",
    "pose_translation_percent": "Shift of the cameras since the start, % of distance",
}


def history_charts(history: pd.DataFrame) -> list[tuple[str, Chart]]:
    """(title, chart) of every numeric column: losses together, rates together, others apart."""
    names = [str(name) for name in history.columns if name not in CLOCKS]
    losses = [name for name in names if name in LOSSES]
    rates = [name for name in names if name == "lr" or "rate" in name.split("_")]
    charts = []
    if losses:
        chart = _over_steps(history, losses, "loss", log=True)
        charts.append(("Losses", chart | {"noisy": len(history) >= NOISY}))
    if rates:
        charts.append(("Learning rate", _over_steps(history, rates, "rate", log=True)))
    for name in names:
        if name not in losses and name not in rates:
            title = TITLES.get(name, name.replace("_", " "))
            charts.append((title, _over_steps(history, [name], "")))
    return charts


def _over_steps(history: pd.DataFrame, names: list[str], label: str, log: bool = False) -> Chart:
    steps = history["step"].tolist()
    traces = []
    for name in names:
        values = history[name].to_numpy(float)
        shown = np.isfinite(values) & ((values > 0) | (not log))
        if shown.any():
            numbers = [_short(v) if s else None for v, s in zip(values, shown, strict=True)]
            traces.append({"name": name, "x": steps, "y": numbers})
    return {"kind": "line", "x": "iteration", "y": label, "log": log, "traces": traces}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def pose_series(run: Run, reference: Poses) -> dict[int, dict[str, float]]:
    """Each view's rotation error at the start (0) and at every kept iteration.

    The world is turned so that all rotations together come closest. Raises Unavailable.
    """
    files = {0: run.initial_poses} | {step: run.poses(step) for step in run.experiment.steps}
    series: dict[int, dict[str, float]] = {}
    for step, path in files.items():
        poses = load(path, read_poses)
        truth = reference.select(poses.views)
        moved = align_rotations(poses.c2w, truth).move_cameras(poses.c2w)
        errors = rotation_angle_deg(moved[:, :3, :3], truth[:, :3, :3])
        series[step] = dict(zip(poses.views, errors.tolist(), strict=True))
    return series


def pose_chart(series: dict[int, dict[str, float]]) -> Chart:
    """Mean and largest rotation error over the iterations."""
    steps = list(series)
    mean = [_short(float(np.mean(list(errors.values())))) for errors in series.values()]
    largest = [_short(max(errors.values())) for errors in series.values()]
    markers = {"x": steps, "mode": "lines+markers"}
    traces = [
        {"name": "mean", "y": mean, **markers},
        {"name": "largest", "y": largest, "dash": "dot", **markers},
    ]
    return {"kind": "line", "x": "iteration", "y": "degrees", "log": False, "traces": traces}


def view_chart(series: dict[int, dict[str, float]]) -> Chart:
    """Each view's rotation error before and after."""
    traces = []
    for name, step, colour in (
        ("start", min(series), "--start"),
        ("result", max(series), "--result"),
    ):
        views, errors = list(series[step]), [_short(e) for e in series[step].values()]
        traces.append({"name": name, "x": views, "y": errors, "mode": "markers", "colour": colour})
    chart: Chart = {"kind": "line", "x": "view", "y": "degrees", "log": False}
    return chart | {"categories": True, "traces": traces}


def metric_chart(iterations: dict[int, dict[str, Any]], key: str, label: str) -> Chart | None:
    """One number over the kept iterations; None unless there are two of them."""
    known = {
        step: _short(float(metrics[key]))
        for step, metrics in sorted(iterations.items())
        if isinstance(metrics.get(key), int | float)
    }
    if len(known) < 2:
        return None
    trace = {"name": label, "x": list(known), "y": list(known.values()), "mode": "lines+markers"}
    return {"kind": "line", "x": "iteration", "y": label, "log": False, "traces": [trace]}


def seconds_chart(runs: dict[str, dict[str, StageState]]) -> Chart:
    """Seconds of every stage, one bar an experiment."""
    traces = []
    names = list(runs)
    for stage in next(iter(runs.values())):
        seconds = [states[stage].seconds for states in runs.values()]
        if any(value is not None for value in seconds):
            traces.append({"name": stage, "x": [value or 0 for value in seconds], "y": names})
    height = 110 + 34 * len(names)
    return {"kind": "bar", "x": "seconds", "y": "", "traces": traces, "height": height}
