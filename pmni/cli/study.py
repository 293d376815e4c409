"""`pmni study`: what an accuracy study found, as tables and plots, with what failed."""

import logging
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pmni.config.base import settings_from_argument
from pmni.config.study import Cell, StudySettings
from pmni.errors import InputError
from pmni.evaluation.study_plots import METRICS, write_plots
from pmni.io.atomic import atomic_file, write_text
from pmni.runtime.stages import STAGES

log = logging.getLogger(__name__)

NUMBERS = (
    *("chamfer_mm", "chamfer_percent", "fscore_0.5", "fscore_1.0", "mae_deg"),
    *("rotation_error_mean_deg", "rotation_error_max_deg", "translation_error_percent"),
    *("total_seconds", "peak_memory_mb"),
)
OK, WRONG_POSES, NOT_RUN = "ok", "wrong poses", "not run"
MADE_WITH = ("device", "commit")
_SHOWN = {**METRICS, "fscore_1.0": ("F-score at 1 mm", ".3f"), "total_seconds": ("seconds", ".0f")}
_FAILURE = re.compile(r"pmni (\S+): error: (.*)")


def add_arguments(parser: ArgumentParser) -> None:
    """Options of the stage."""
    parser.add_argument("--benchmark", type=Path, required=True, help="the table of `collect`")
    parser.add_argument("--logs", type=Path, required=True, help="the folder with the logs")
    parser.add_argument("--settings", required=True, help="StudySettings: a YAML file or inline")
    parser.add_argument("--experiments", nargs="+", required=True, help="all that were asked for")
    parser.add_argument("--only", nargs="*", default=[], help="of the captures, these; none is all")
    parser.add_argument("--output", type=Path, required=True, help="folder for tables and plots")


def run(args: Namespace) -> None:
    """Write `table.csv` (every result), `table.md` (medians, and what failed), and the plots."""
    settings = settings_from_argument(StudySettings, args.settings)
    cells = [cell for cell in settings.cells() if not args.only or cell.name in args.only]
    table = tabulate(
        _read_benchmark(args.benchmark),
        cells,
        args.experiments,
        settings.wrong_poses_deg,
        args.logs,
    )
    args.output.mkdir(parents=True, exist_ok=True)
    pictures = write_plots(args.output, table, settings, args.experiments)
    with atomic_file(args.output / "table.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.5g")
    write_text(args.output / "table.md", page(table, settings, pictures))
    log.info("%d results, %d of them failed", len(table), (table["status"] != OK).sum())


def tabulate(
    benchmark: pd.DataFrame,
    cells: Sequence[Cell],
    experiments: Sequence[str],
    wrong_poses_deg: float,
    logs: Path,
) -> pd.DataFrame:
    """One row for each capture and experiment, whether there is a result or not.

    Of an object's iterations the kept one counts, else the last. `status` is ok; wrong poses, when
    a camera is rotated by more than `wrong_poses_deg` from the truth; failed in <stage>, with the
    stage's message in `reason`; or not run.
    """
    results = _results(benchmark)
    rows = []
    for cell in cells:
        for experiment in experiments:
            row = {"capture": cell.name, "object": cell.scene, "seed": cell.seed, **cell.levels}
            row |= {"changed": " ".join(cell.changed) or "base", "experiment": experiment}
            found = results.get((cell.name, experiment))
            if found is None:
                status, reason = _failure(logs, cell.name, experiment, experiments)
                rows.append(row | {"status": status, "reason": reason})
                continue
            worst = found.get("rotation_error_max_deg")
            wrong = pd.notna(worst) and worst > wrong_poses_deg
            reason = f"a camera is {worst:.0f} degrees off" if wrong else ""
            numbers = {name: found.get(name) for name in (*NUMBERS, *MADE_WITH)}
            rows.append(row | {"status": WRONG_POSES if wrong else OK, "reason": reason} | numbers)
    table = pd.DataFrame(rows)
    return table.reindex(
        columns=[*table.columns, *(n for n in (*NUMBERS, *MADE_WITH) if n not in table)]
    )


def page(table: pd.DataFrame, settings: StudySettings, pictures: Sequence[Path]) -> str:
    """The summary in Markdown: plots, medians over what worked, and everything that failed."""
    lines = [
        "<!-- Written by `pmni study`; every result is a line of table.csv. -->",
        "# Results of the accuracy study",
        "",
        *(f"![{path.stem}]({path.name})\n" for path in pictures),
        "Medians over the objects (and seeds) whose poses were found; `worked` counts them.",
        f"Made on {_all(table['device'])}; commit {_all(table['commit'])}.",
    ]
    base = table[table["changed"] == "base"]
    groups = [("The base case", base, "object", list(dict.fromkeys(base["object"])))]
    single = table["changed"].isin(["base", *settings.factors])
    for name, factor in settings.factors.items():
        own = table[single & table["changed"].isin(["base", name])]
        own = own[own["object"].isin(settings.objects)]
        if (own["changed"] == name).any():
            groups.append((factor.title, own, name, list(factor.levels)))
    if not single.all():
        several = table[~single]
        groups.append(("Several at a time", several, "capture", list(several["capture"].unique())))
    for title, rows, varied, levels in groups:
        lines += ["", f"## {title}", "", *_summary(rows, varied, levels)]
    failed = table[table["status"] != OK]
    lines += ["", "## What failed", ""]
    lines += [*_failures(failed)] if len(failed) else ["Nothing."]
    return "\n".join(lines) + "\n"


def _summary(rows: pd.DataFrame, varied: str, levels: Sequence[str]) -> Iterator[str]:
    """A table of medians, one line for each level and experiment."""
    yield _line([varied, "experiment", "worked", *(title for title, _ in _SHOWN.values())])
    yield _line(["---"] * (3 + len(_SHOWN)))
    for level in levels:
        for experiment in rows["experiment"].unique():
            group = rows[(rows[varied] == level) & (rows["experiment"] == experiment)]
            worked = group[group["status"] == OK]
            numbers = [_number(worked[name].median(), form) for name, (_, form) in _SHOWN.items()]
            yield _line([level, experiment, f"{len(worked)} of {len(group)}", *numbers])


def _failures(failed: pd.DataFrame) -> Iterator[str]:
    yield _line(["capture", "experiment", "status", "reason", "Chamfer, mm"])
    yield _line(["---"] * 5)
    for _, row in failed.iterrows():
        chamfer = _number(row["chamfer_mm"], ".3f")
        yield _line([row["capture"], row["experiment"], row["status"], row["reason"], chamfer])


def _line(values: Sequence[object]) -> str:
    return "| " + " | ".join(str(value).replace("|", "/") for value in values) + " |"


def _all(values: pd.Series) -> str:
    """What there is in a column, once."""
    return ", ".join(map(str, values.dropna().unique())) or "unknown"


def _number(value: float, form: str) -> str:
    return "" if pd.isna(value) else format(value, form)


def _results(benchmark: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """The row that counts, by object and experiment."""
    ours = benchmark[benchmark["source"] == "ours"].sort_values("iteration", kind="stable")
    results: dict[tuple[str, str], dict[str, Any]] = {}
    for (capture, experiment), group in ours.groupby(["object", "experiment"], sort=False):
        kept = group[group["kept"].astype(str) == "True"] if "kept" in group else group[:0]
        row = (kept if len(kept) else group).iloc[-1]
        results[str(capture), str(experiment)] = {str(key): row[key] for key in row.index}
    return results


def _failure(
    logs: Path, capture: str, experiment: str, experiments: Sequence[str]
) -> tuple[str, str]:
    """(status, reason) of a result that is not there: the first stage whose log has an error."""
    others = set(experiments) - {experiment}
    for stage in STAGES:
        for path in sorted((logs / stage).rglob("*.log")):
            parts = path.relative_to(logs).with_suffix("").parts
            if capture not in parts or others & set(parts[1:2]):
                continue
            text = path.read_text(encoding="utf-8", errors="replace").strip()
            if match := _FAILURE.search(text):
                return f"failed in {match[1]}", match[2]
            if "Traceback (most recent call last)" in text:
                return f"failed in {stage}", text.splitlines()[-1]
    return NOT_RUN, ""


def _read_benchmark(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:  # also pandas' parser errors
        raise InputError(f"{path}: not a CSV table") from None
