"""A run's records as JSON, and as tables in Markdown."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.records import Ratio, Record, ratios
from pmni.io.atomic import write_text


def write_report(folder: Path, run: dict[str, Any], records: list[Record]) -> Path:
    """`<date>-<hardware>` .json and .md in a folder; returns the first.

    `run` says what made them: date, device, hardware, versions, commit.
    """
    stem = folder / file_stem(run)
    content = {
        **run,
        "records": [asdict(record) for record in records],
        "ratios": [asdict(ratio) for ratio in ratios(records)],
    }
    path = stem.with_suffix(".json")
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_text(stem.with_suffix(".md"), markdown(run, records))
    return path


def file_stem(run: dict[str, Any]) -> str:
    """File name without suffix: <date>-<GPU or processor>, then the parts unless all were run."""
    name = re.sub(r"[^a-z0-9]+", "-", processor(run).lower()).strip("-")
    parts = "".join(f"-{part}" for part in run["parts"] or [])
    return f"{run['date'][:10]}-{name}{parts}{'-quick' if run['quick'] else ''}"


def processor(run: dict[str, Any]) -> str:
    """Name of the measured GPU or processor."""
    hardware = run["hardware"]
    return str(hardware["gpu" if run["device"] == "cuda" else "processor"])


def title(run: dict[str, Any]) -> str:
    """Title of the report: processor, date and commit."""
    quick = " (quick: tiny sizes, the numbers mean nothing)" if run["quick"] else ""
    return f"{processor(run)}, {run['date'][:10]}, commit {run['commit']}{quick}"


def markdown(run: dict[str, Any], records: list[Record]) -> str:
    """The report in Markdown: one table for each part."""
    hardware, versions = run["hardware"], run["versions"]
    lines = [
        f"# {title(run)}",
        "",
        f"{hardware['processor']}, {hardware['cores']} cores, {run['threads']} threads"
        + (f"; {hardware['gpu']}" if "gpu" in hardware else "")
        + f". {', '.join(f'{name} {version}' for name, version in versions.items())}.",
    ]
    against: dict[tuple[str, ...], list[Ratio]] = {}
    for ratio in ratios(records):
        key = (ratio.part, ratio.name, ratio.variant, ratio.unit)
        against.setdefault(key, []).append(ratio)
    for part in dict.fromkeys(record.part for record in records):
        lines += ["", f"## {part}", "", "| what | variant | | compared | difference |"]
        lines += ["|---|---|---:|---|---|"]
        for record in (record for record in records if record.part == part):
            key = (record.part, record.name, record.variant, record.unit)
            compared = ", ".join(f"{r.ratio:.3g} x {r.reference}" for r in against.get(key, []))
            off = "" if record.difference is None else f"{record.difference:.1e}"
            cells = (
                record.name,
                record.variant,
                format_value(record.value, record.unit),
                compared,
                off,
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def format_value(value: float, unit: str) -> str:
    """A value as text with its unit."""
    if unit == "s" and value < 1:
        value, unit = (1e6 * value, "us") if value < 1e-3 else (1e3 * value, "ms")
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
