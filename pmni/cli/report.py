"""`pmni report`: one HTML page of all that was made, and of what was not."""

import argparse
import json
import logging
from pathlib import Path

from pmni.config.base import settings_from_argument
from pmni.config.reporting import ReportedRun, ReportSettings
from pmni.errors import InputError
from pmni.io.atomic import write_text
from pmni.reporting.page import build_page

LOGGER = logging.getLogger("report")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pmni report`."""
    parser.add_argument("--results", type=Path, required=True, help="folder of all results")
    parser.add_argument(
        "--config-json",
        required=True,
        help="what was run: JSON with objects, experiments and the folder of logs",
    )
    parser.add_argument("--settings", help="YAML file or inline JSON; see ReportSettings")
    parser.add_argument("--output", type=Path, required=True, help="folder for index.html")


def run(args: argparse.Namespace) -> None:
    """Write `index.html`, whatever is missing from the results."""
    settings = settings_from_argument(ReportSettings, args.settings)
    described = read_description(args.config_json)
    if not args.results.is_dir():
        raise InputError(f"{args.results}: there is no such folder of results")
    page = build_page(args.results, described, settings)
    path = args.output / "index.html"
    write_text(path, page)
    LOGGER.info("%s: %.1f MB", path, len(page.encode()) / 1e6)


def read_description(text: str) -> ReportedRun:
    """The run that `--config-json` describes. Raises InputError."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(f"--config-json: not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise InputError("--config-json: must be an object with 'objects' and 'experiments'")
    return ReportedRun.parse(values, "--config-json")
