"""Plot of all times of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.records import Record
from benchmarks.report import format_value
from pmni.io.atomic import atomic_file

COLOURS = {  # Okabe and Ito
    "torch": "#0072b2",
    "triton": "#d55e00",
    "triton, graph-captured": "#e69f00",
    "triton, recorded": "#e69f00",  # the same, in results until 2026-11-30
    "tiny-cuda-nn": "#009e73",
    "pymcubes": "#cc79a7",
    "floor": "#8c959f",
}
"""Colours of variants that share a row; any other variant has a row of its own."""
_INK = "#24292f"
_ROW, _COLUMN = 0.19, 7.5
"""Height of a row and width of a column, inches."""
_AROUND = 4
"""Height of a panel's title and of the axis above it, in rows."""


def write_plot(path: Path, title: str, records: Sequence[Record]) -> None:
    """Write a PNG: a panel for each part, a row for each timed computation, logarithmic axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, Rows] = {}
    for record in records:
        if record.unit == "s":
            alone = record.variant not in COLOURS
            label = f"{record.name}: {record.variant}" if alone else record.name
            panels.setdefault(record.part, {}).setdefault(label, []).append(record)
    columns = _columns(panels)
    tallest = max(map(_height, columns)) + _AROUND / 2
    figure = Figure(figsize=(_COLUMN * len(columns), _ROW * tallest), dpi=100)
    FigureCanvasAgg(figure)
    for position, column in enumerate(columns):
        heights = [height for rows in column.values() for height in (_AROUND, len(rows))]
        grid = figure.add_gridspec(
            len(heights) + 1, 1, height_ratios=[*heights, tallest - sum(heights)], hspace=0,
            left=(position + 0.45) / len(columns), right=(position + 0.97) / len(columns),
            top=1, bottom=0,
        )  # fmt: skip
        for index, (part, rows) in enumerate(column.items()):
            _draw(figure.add_subplot(grid[2 * index + 1]), part, rows)
    figure.suptitle(title, color=_INK, size=10, y=1 - 0.1 / figure.get_figheight())
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


Rows = dict[str, list[Record]]
"""Records of a panel's rows, by the row's label."""


def _height(column: dict[str, Rows]) -> int:
    return sum(len(rows) + _AROUND for rows in column.values())


def _columns(panels: dict[str, Rows]) -> list[dict[str, Rows]]:
    """The panels in one or two columns, split where the columns' heights are closest."""
    names = list(panels)

    def split(at: int) -> list[dict[str, Rows]]:
        return [{name: panels[name] for name in part} for part in (names[:at], names[at:]) if part]

    places = range(1, len(names) + 1)
    return min(map(split, places), key=lambda s: max(map(_height, s)))


def _draw(axes: Any, part: str, rows: Rows) -> None:
    labelled = set()
    for row, records in enumerate(rows.values()):
        for record in records:
            has_colour = record.variant in COLOURS
            label = record.variant if has_colour and record.variant not in labelled else None
            labelled.add(record.variant)
            colour = COLOURS.get(record.variant, _INK)
            marker = "|" if record.variant == "floor" else "o"
            axes.plot(record.value, row, marker, color=colour, ms=5, mew=1.4, label=label)
    _scale(axes, [record.value for records in rows.values() for record in records])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), list(rows), size=6.5)
    axes.set_title(part, size=9, color=_INK, weight="bold", loc="right", x=-0.02)
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.grid(color="#d0d7de", lw=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if any(variant in COLOURS for variant in labelled):
        axes.legend(fontsize=7, frameon=False, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=5)


def _scale(axes: Any, seconds: Sequence[float]) -> None:
    """Make the x axis logarithmic, labelled at powers of ten, and at 2 and 5 below two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    narrow = max(seconds) < 100 * min(seconds)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value, "s")))
    axes.xaxis.set_minor_formatter(NullFormatter())
