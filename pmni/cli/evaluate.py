"""`pmni evaluate`: numbers and error maps of a mesh and its poses."""

import json
import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from pmni.config.base import settings_from_argument
from pmni.config.evaluation import EvaluateSettings
from pmni.data.capture import load_capture
from pmni.errors import InputError
from pmni.evaluation.evaluate import evaluate
from pmni.evaluation.metrics import cost_metrics
from pmni.geometry.mesh import Mesh
from pmni.io.atomic import atomic_file, write_text
from pmni.io.poses import read_poses
from pmni.runtime.layout import CaptureFolder, error_maps_of, provenance_of
from pmni.runtime.provenance import record

log = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Options of the stage."""
    parser.add_argument("--capture", type=Path, required=True, help="folder made by prepare")
    parser.add_argument("--mesh", type=Path, required=True, help="any mesh file, dataset units")
    parser.add_argument("--poses", type=Path, help="its poses, JSON")
    parser.add_argument("--initial-poses", type=Path, help="the poses it started from, JSON")
    parser.add_argument("--settings", help="EvaluateSettings: a YAML file or inline YAML")
    parser.add_argument("--experiment", default="external", help="column of the benchmark table")
    parser.add_argument("--iteration", type=int, default=0, help="column of the benchmark table")
    parser.add_argument("--dataset", default="", help="column of the benchmark table")
    parser.add_argument(
        "--provenance",
        type=Path,
        nargs="*",
        default=[],
        help="provenance files of the stages that made the mesh: seconds, memory, device",
    )
    parser.add_argument("--output", type=Path, required=True, help="the metrics, .json")


def run(args: Namespace) -> None:
    """Run the stage. Error maps go beside the metrics, as `.errors.npz`."""
    settings = settings_from_argument(EvaluateSettings, args.settings)
    capture = load_capture(args.capture)
    mesh = load_mesh(args.mesh)
    poses = read_poses(args.poses) if args.poses else None
    initial = read_poses(args.initial_poses) if args.initial_poses else None
    inputs = {"capture": CaptureFolder(args.capture).archive, "mesh": args.mesh}
    inputs |= {"poses": args.poses} if args.poses else {}
    inputs |= {"initial_poses": args.initial_poses} if args.initial_poses else {}
    cost = cost_of(args.provenance)
    with record("evaluate", provenance_of(args.output), settings, inputs):
        evaluation = evaluate(capture, mesh, poses, initial, settings)
        row = {
            "dataset": args.dataset,
            "object": capture.name,
            "experiment": args.experiment,
            "iteration": args.iteration,
            **evaluation.metrics,
            **cost,
            "source": "ours",
        }
        with atomic_file(error_maps_of(args.output)) as temporary:
            np.savez_compressed(
                temporary,
                views=np.array(capture.views),
                normal_error_deg=evaluation.normal_error_deg,
                surface_distance_mm=evaluation.surface_distance_mm,
                seen=evaluation.observed,
            )
        write_text(args.output, json.dumps(row, indent=1, allow_nan=False) + "\n")
    shown = ("chamfer_mm", "mae_deg", "rotation_error_mean_deg")
    log.info("%s: %s", capture.name, ", ".join(f"{key} {_short(row[key])}" for key in shown))
    if row["note"]:
        log.warning("%s: %s", capture.name, row["note"])


def load_mesh(path: Path) -> Mesh:
    """Any mesh file that trimesh reads. Raises InputError naming it."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        loaded: Any = trimesh.load(path, force="mesh", process=False)
        return Mesh(np.asarray(loaded.vertices, np.float64), np.asarray(loaded.faces, np.int64))
    except Exception as error:  # readers of all kinds fail in all ways on a damaged file
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"{path}: cannot be read as a mesh ({reason})") from None


def cost_of(files: Sequence[Path]) -> dict[str, Any]:
    """Costs of a mesh (`CostMetric`), and what it was computed with, from the provenance files of
    its stages; None for what they do not say. Raises InputError for a file that cannot be read."""
    stages = []
    for path in files:
        try:
            stages.append(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        except ValueError:
            raise InputError(f"{path}: not a provenance file") from None
    by_name: dict[str, dict[str, Any]] = {str(stage.get("stage")): stage for stage in stages}
    solver = by_name.get("train") or by_name.get("refine") or {}
    return {
        **{metric.key: metric.compute(stages) for metric in cost_metrics()},
        "device": _device_name(solver),
        "backend": solver.get("backend"),
        "commit": solver.get("commit"),
    }


def _device_name(stage: dict[str, Any]) -> str | None:
    """The name of the hardware behind a stage's device."""
    device, hardware = stage.get("device"), stage.get("hardware", {})
    if device is None:
        return None
    on_gpu = str(device).startswith("cuda")
    return hardware.get("gpu" if on_gpu else "processor") or str(device)


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
