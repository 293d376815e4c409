"""`pmni study`: results of an accuracy study as tables and plots, failures included."""

import logging
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pmni.config.base import settings_from_argument
from pmni.config.study import StudySettings
from pmni.errors import InputError
from pmni.evaluation.study_plots import write_plots
from pmni.evaluation.study_table import NOT_RUN, OK, Explain, summarise, tabulate
from pmni.io.atomic import atomic_file, write_text
from pmni.runtime.layout import StudyFolder
from pmni.runtime.stages import STAGES

log = logging.getLogger(__name__)

_ERROR_LINE = re.compile(r"pmni (\S+): error: (.*)")
"""A stage's last line of a log: its name, and the message."""


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
    explain = failures_in(args.logs, args.experiments)
    benchmark = _read_benchmark(args.benchmark)
    table = tabulate(benchmark, cells, args.experiments, settings.wrong_poses_deg, explain)
    args.output.mkdir(parents=True, exist_ok=True)
    figures = write_plots(args.output, table, settings, args.experiments)
    with atomic_file(StudyFolder(args.output).table) as temporary:
        table.to_csv(temporary, index=False, float_format="%.5g")
    summary = summarise(table, settings, [path.name for path in figures])
    write_text(StudyFolder(args.output).summary, summary)
    log.info("%d results, %d of them failed", len(table), (table["status"] != OK).sum())


def failures_in(logs: Path, experiments: Sequence[str]) -> Explain:
    """Explains missing results by the logs: `failed in <stage>`, for the first stage whose log has
    an error, with its message; or `not run`."""

    def explain(capture: str, experiment: str) -> tuple[str, str]:
        others = set(experiments) - {experiment}
        for stage in STAGES:
            for path in sorted((logs / stage).rglob("*.log")):
                parts = path.relative_to(logs).with_suffix("").parts
                if capture not in parts or others & set(parts[1:2]):
                    continue
                text = path.read_text(encoding="utf-8", errors="replace").strip()
                if match := _ERROR_LINE.search(text):
                    return f"failed in {match[1]}", match[2]
                if "Traceback (most recent call last)" in text:
                    return f"failed in {stage}", text.splitlines()[-1]
        return NOT_RUN, ""

    return explain


def _read_benchmark(path: Path) -> pd.DataFrame:
    """The benchmark table. Raises InputError naming a file that cannot be read as one."""
    try:
        return pd.read_csv(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:  # also pandas' parser errors
        raise InputError(f"{path}: not a CSV table") from None
