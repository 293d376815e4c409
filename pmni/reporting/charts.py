"""Charts as plain data; `charts.js` draws them in the page's colours."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pmni.config.extensions import LOSSES
from pmni.reporting.results_index import STAGES, StageState

Chart = dict[str, Any]
"""Traces, labels of the axes and options, as `charts.js` takes them."""

MAX_CURVE_POINTS = 600
"""Largest number of points of a curve."""

MIN_SMOOTHED_POINTS = 60
"""Number of points from which on losses are drawn faintly, with their running mean on top."""

SIGNIFICANT_DIGITS = 5
"""Digits of the numbers in charts."""

BAR_HEIGHT_PX = 34
"""Height of a bar with the gap to the next one, pixels."""

BAR_CHART_MARGIN_PX = 110
"""Height of the axis and the legend of a chart of bars, pixels."""

CLOCKS = ("step", "iteration", "seconds")
"""Columns of a history that count time."""

GRIDS = ("cells", "resolution")
"""Columns of a history with the number of grid cells along a side."""


def read_history(path: Path, clock: str = "step") -> pd.DataFrame:
    """A history with at least the column `clock`; numeric columns only."""
    table = pd.read_csv(path)
    if clock not in table or table.empty:
        raise ValueError(f"has no column '{clock}', or no rows")
    numeric = table.select_dtypes("number").dropna(axis="columns", how="all")
    keep = np.unique(np.linspace(0, len(numeric) - 1, MAX_CURVE_POINTS).round().astype(int))
    return numeric.iloc[keep]


LOSS_COLUMNS = ("loss", *LOSSES)
"""Columns of a history that share the chart of losses."""

TITLES = {
    "inv_s": "Sharpness of the density, inv_s",
    "levels": "Levels of the hash grid",
    "samples": "Samples in a step",
    "pose_rotation_deg": "Rotation of the cameras since the start, degrees",
    "pose_translation_percent": "Translation of the cameras since the start, % of distance",
    "hit_fraction": "Fraction of the rays that hit the surface",
    "translation_change": "Translation of the cameras in an iteration, normalised",
    "surface_change": "Change of the distance function in an iteration, normalised",
    "normal_tilt_bias": "Tilt bias of the normals, common to all views",
    "focal_factor": "Factor of the focal lengths, common to all views",
}


def history_charts(history: pd.DataFrame) -> list[tuple[str, Chart]]:
    """(title, chart) of every numeric column: losses together, rates together, others apart."""
    names = [str(name) for name in history.columns if name not in CLOCKS]
    losses = [name for name in names if name in LOSS_COLUMNS]
    rates = [name for name in names if name == "lr" or "rate" in name.split("_")]
    charts = []
    if losses:
        chart = _over_steps(history, losses, "loss", log=True)
        charts.append(("Losses", chart | {"noisy": len(history) >= MIN_SMOOTHED_POINTS}))
    if rates:
        charts.append(("Learning rate", _over_steps(history, rates, "rate", log=True)))
    for name in names:
        if name not in losses and name not in rates:
            title = TITLES.get(name, name.replace("_", " "))
            charts.append((title, _over_steps(history, [name], "")))
    return charts


TRACES = {"rotation_change_deg": "mean", "largest_rotation_change_deg": "largest"}
"""Names of the curves that share a chart."""

CONVERGENCE: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("Residual of the normals, degrees", ("normal_residual_deg",), False),
    ("Residual of the contours, pixels", ("contour_residual_px",), False),
    (
        "Rotation of the cameras in an iteration, degrees",
        ("rotation_change_deg", "largest_rotation_change_deg"),
        True,
    ),
)


def refinement_charts(history: pd.DataFrame) -> list[tuple[str, Chart]]:
    """(title, chart) of the refinement's residuals, its steps, and what else changed."""
    names = [str(name) for name in history.columns if name not in (*CLOCKS, *GRIDS)]
    grouped = [name for _, columns, _ in CONVERGENCE for name in columns]
    groups = [(title, [n for n in cs if n in names], log) for title, cs, log in CONVERGENCE]
    groups += [
        (TITLES.get(name, name.replace("_", " ")), [name], False)
        for name in names
        if name not in grouped and history[name].nunique() > 1
    ]
    charts = []
    for title, columns, log in groups:
        chart = _over_steps(history, columns, "", log, "iteration")
        if chart["traces"]:
            charts.append((title, chart | {"plain": True, "marks": _grids(history)}))
    return charts


def _grids(history: pd.DataFrame) -> list[dict[str, Any]]:
    """Where the refinement went on to a finer grid, and its cells along a side."""
    column = next((name for name in GRIDS if name in history), None)
    if column is None:
        return []
    first = history[history[column] != history[column].shift()]
    places, cells = first["iteration"].tolist(), first[column].tolist()
    return [{"x": at - 0.5, "text": f"{count}³"} for at, count in zip(places, cells, strict=True)]


def _over_steps(
    history: pd.DataFrame, names: list[str], label: str, log: bool = False, clock: str = "step"
) -> Chart:
    steps = history[clock].tolist()
    traces = []
    for name in names:
        values = history[name].to_numpy(float)
        shown = np.isfinite(values) & ((values > 0) | (not log))
        if shown.any():
            numbers = [short(v) if s else None for v, s in zip(values, shown, strict=True)]
            traces.append({"name": TRACES.get(name, name), "x": steps, "y": numbers})
    return {"kind": "line", "x": "iteration", "y": label, "log": log, "traces": traces}


def short(value: float) -> float:
    """The value rounded to `SIGNIFICANT_DIGITS`, which keeps the page small."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def metric_chart(iterations: dict[int, dict[str, Any]], key: str, label: str) -> Chart | None:
    """One number over the kept iterations; None unless there are two of them."""
    known = {
        step: short(float(metrics[key]))
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
    for stage in STAGES:
        done = [states.get(stage) for states in runs.values()]
        seconds = [state.seconds if state else None for state in done]
        if any(value is not None for value in seconds):
            traces.append({"name": stage, "x": [value or 0 for value in seconds], "y": names})
    height = BAR_CHART_MARGIN_PX + BAR_HEIGHT_PX * len(names)
    return {"kind": "bar", "x": "seconds", "y": "", "traces": traces, "height": height}
