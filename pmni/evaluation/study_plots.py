"""Plots of an accuracy study: one figure for each number, one panel for each factor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pmni.config.study import StudySettings
from pmni.evaluation.study_table import OK, quantity_of
from pmni.io.atomic import atomic_file

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Colours of the experiments, which the colour-blind tell apart (Okabe and Ito)."""

_INK = "#24292f"
"""Colour of text."""

_FAINT = "#8c959f"
"""Colour of axes."""

_SPACING = 0.22
"""Distance between the dots of two experiments at the same level, in distances of levels."""


def write_plots(
    folder: Path, table: pd.DataFrame, settings: StudySettings, experiments: Sequence[str]
) -> list[Path]:
    """Write one PNG for each number in `settings.plots`, also where no capture has a value of it.

    Large dots are medians over the objects that worked, joined where levels are numbers; small dots
    are single objects; a cross at the top says how many failed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    written = []
    panels = _panels(table, settings)
    for name, column in settings.plots.items():
        quantity = quantity_of(column)
        values = table[column][(table["status"] == OK) & (table[column] > 0)]
        lowest, highest = (values.min(), values.max()) if len(values) else (1.0, 1.0)
        figure = Figure(figsize=(2.5 * len(panels) + 0.9, 3.7), dpi=110)
        FigureCanvasAgg(figure)
        widths = [len(levels) + 0.6 for _, levels, _, _ in panels]
        row: Any = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=widths)
        for axes, panel in zip(row[0], panels, strict=True):
            _draw(axes, panel, column, experiments)
        first = row[0, 0]
        first.set_yscale("log")
        first.set_ylim(0.7 * lowest, 2.5 * highest)
        first.set_ylabel(quantity.heading, color=_INK)
        first.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        first.yaxis.set_minor_locator(NullLocator())
        first.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        handles, labels = first.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="upper center", ncols=len(labels), frameon=False, fontsize=9
        )
        figure.tight_layout(rect=(0, 0, 1, 0.93))
        with atomic_file(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png")
        written.append(folder / f"{name}.png")
    return written


Panel = tuple[str, list[str], str, pd.DataFrame]
"""Title of a panel, its levels, the column that holds them, and the rows."""


def _panels(table: pd.DataFrame, settings: StudySettings) -> list[Panel]:
    """The base case by object, then each factor by level."""
    base = table[table["changed"] == "base"]
    panels: list[Panel] = [("object", list(dict.fromkeys(base["object"])), "object", base)]
    varied = table[table["object"].isin(settings.objects)]
    for name, factor in settings.factors.items():
        rows = varied[varied["changed"].isin(["base", name])]
        panels.append((factor.title, list(factor.levels), name, rows))
    return panels


def _draw(axes: Any, panel: Panel, column: str, experiments: Sequence[str]) -> None:
    """Draw one panel of the number in `column`."""
    title, levels, key, rows = panel
    for index, experiment in enumerate(experiments):
        results = rows[rows["experiment"] == experiment]
        shift = _SPACING * (index - (len(experiments) - 1) / 2)
        colour = _COLOURS[index % len(_COLOURS)]
        medians = []
        for index_of_level, level in enumerate(levels):
            at_level = results[results[key].astype(str) == level]
            worked = at_level[(at_level["status"] == OK) & (at_level[column] > 0)][column]
            failed = int((at_level["status"] != OK).sum())
            x = index_of_level + shift
            medians.append(worked.median() if len(worked) else np.nan)
            axes.plot([x] * len(worked), worked, ".", color=colour, alpha=0.45, ms=5)
            if failed:
                axes.plot(
                    x, 0.965, "x", color=colour, ms=6, mew=1.6, clip_on=False,
                    transform=axes.get_xaxis_transform(),
                )  # fmt: skip
                axes.annotate(
                    f"{failed}/{len(at_level)}", (x, 0.92 - 0.045 * index), color=colour,
                    size=6.5, ha="center", va="center", xycoords=axes.get_xaxis_transform(),
                )  # fmt: skip
        positions = np.arange(len(levels)) + shift
        line = "-" if all(level.replace(".", "").isdecimal() for level in levels) else "none"
        axes.plot(positions, medians, "o", ls=line, color=colour, ms=4.5, lw=1.5, label=experiment)
    axes.set_title(title, size=9, color=_INK)
    turn = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(
        range(len(levels)), levels, size=8, **(turn if max(map(len, levels)) > 4 else {})
    )
    axes.set_xlim(-0.6, len(levels) - 0.4)
    axes.tick_params(colors=_FAINT, labelcolor=_INK, labelsize=8)
    axes.grid(axis="y", which="major", color="#d0d7de", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
