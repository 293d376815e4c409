"""`python -m benchmarks`: measure, and write JSON, a plot and a table."""

import argparse
import logging
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import evaluate, kernels, mesh, paper, refine, train
from benchmarks.bench import Bench, Part
from benchmarks.plot import write_plot
from benchmarks.records import Record
from benchmarks.report import format_value, title, write_report
from benchmarks.sizes import CPU, GPU, QUICK
from pmni.errors import InputError, PmniError
from pmni.runtime import provenance
from pmni.runtime.devices import acquire_device

LOGGER = logging.getLogger("benchmarks")
PARTS: dict[str, Part] = {
    "kernels": kernels.run,
    "refine": refine.run,
    "train": train.run,
    "paper": paper.run,
    "mesh": mesh.run,
    "evaluate": evaluate.run,
}


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("--parts", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    made.add_argument("--quick", action="store_true", help="tiny sizes: a functional check")
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    made.add_argument("--commit", help="commit of the source tree, if there is no git repository")
    made.add_argument("--output", type=Path, required=True, help="folder for the results")
    return made


def chosen_parts(names: str) -> dict[str, Part]:
    """The named parts, in the order of PARTS. Raises InputError for an unknown name."""
    requested = names.split(",")
    unknown = [name for name in requested if name not in PARTS]
    if unknown:
        raise InputError(f"--parts: no part '{unknown[0]}'; there are {', '.join(PARTS)}")
    return {name: part for name, part in PARTS.items() if name in requested}


def measure(parts: Iterable[Part], bench: Bench, run: dict[str, Any], folder: Path) -> Path:
    """Run the parts and write the report after each; returns the path of its JSON file."""
    records: list[Record] = []
    start = time.perf_counter()
    for part in parts:
        for record in part(bench):
            records.append(record)
            figure = format_value(record.value, record.unit)
            LOGGER.info("%s: %s: %s", record.name, record.variant, figure)
        run["seconds"] = round(time.perf_counter() - start, 1)
        path = write_report(folder, run, records)
    write_plot(path.with_suffix(".png"), title(run), records)
    return path


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks. Returns 0, or 2 after a line on standard error that says what to do."""
    args = parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    try:
        parts = chosen_parts(args.parts)
        with acquire_device(args.device) as device:
            sizes = QUICK if args.quick else GPU if device.type == "cuda" else CPU
            run = {
                "parts": list(parts) if len(parts) < len(PARTS) else None,
                "date": datetime.now().astimezone().isoformat(timespec="seconds"),
                "commit": args.commit or provenance.commit(),
                "device": device.type,
                "hardware": provenance.hardware(),
                "threads": torch.get_num_threads(),
                "cuda": torch.version.cuda,
                "versions": provenance.versions(),
                "quick": args.quick,
            }
            path = measure(parts.values(), Bench(device, sizes), run, args.output)
    except PmniError as error:
        print(f"python -m benchmarks: error: {error}", file=sys.stderr)
        return 2
    LOGGER.info("written: %s, and .md and .png beside it", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
