"""`pmni export`: results for other software, and a figure of the cameras around the object."""

import json
import logging
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmni.config.base import settings_from_argument
from pmni.config.export import ExportSettings
from pmni.data.capture import load_capture
from pmni.data.readers.files import read_mesh
from pmni.errors import InputError
from pmni.exporting.camera_figure import write_figure
from pmni.exporting.export import write_exports
from pmni.exporting.scene import ExportScene, cameras_of, no_points, sample_surface
from pmni.io.atomic import atomic_folder
from pmni.io.poses import read_poses
from pmni.runtime.layout import CaptureFolder, ExportFolder
from pmni.runtime.provenance import record

log = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Options of the stage."""
    parser.add_argument("--capture", type=Path, required=True, help="folder made by prepare")
    parser.add_argument(
        "--poses", type=Path, nargs="+", required=True, help="the result, JSON; or each candidate's"
    )
    parser.add_argument(
        "--mesh",
        type=Path,
        nargs="+",
        help="its mesh, any file, dataset units; or each candidate's",
    )
    parser.add_argument("--iterations", type=int, nargs="+", help="the candidates' iterations")
    parser.add_argument(
        "--selection", type=Path, help="train/selection.json: which of the candidates is the result"
    )
    parser.add_argument("--initial-poses", type=Path, help="the poses it started from, JSON")
    parser.add_argument("--settings", help="ExportSettings: a YAML file or inline YAML")
    parser.add_argument("--points", type=int, help="in place of the setting `points`")
    parser.add_argument("--output", type=Path, required=True, help="folder for the exports")


def run(args: Namespace) -> None:
    """Run the stage. Views without a pose are left out."""
    settings = settings_from_argument(ExportSettings, args.settings)
    if args.points is not None:
        settings = ExportSettings.parse(settings.model_dump() | {"points": args.points}, "--points")
    chosen = choose(args.poses, args.mesh, args.iterations, args.selection)
    capture = load_capture(args.capture)
    cameras = cameras_of(capture, read_poses(chosen.poses), chosen.poses)
    initial = None
    inputs = {"capture": CaptureFolder(args.capture).archive, "poses": chosen.poses}
    if args.initial_poses:
        initial = cameras_of(capture, read_poses(args.initial_poses), args.initial_poses)
        if not set(initial.views) & set(cameras.views):
            raise InputError(f"{args.initial_poses}: has no pose of any view of {chosen.poses}")
        inputs["initial_poses"] = args.initial_poses
    mesh, points = None, no_points()
    if chosen.mesh:
        mesh = read_mesh(chosen.mesh)
        points = sample_surface(mesh.vertices, mesh.faces, settings.points, settings.seed)
        inputs["mesh"] = chosen.mesh
    with (
        atomic_folder(args.output) as folder,
        record("export", ExportFolder(folder).provenance, settings, inputs) as facts,
    ):
        left_out = write_exports(folder, ExportScene(capture, cameras, points), settings)
        if settings.figure:
            write_figure(ExportFolder(folder).figure, capture, cameras, initial, mesh, settings)
        facts |= {"views": len(cameras.views), "points": len(points.positions)}
        facts |= {"iteration": chosen.iteration, "left_out": left_out}
    for name, reason in left_out.items():
        log.warning("%s is left out: %s", name, reason)
    log.info("%s: cameras of %d views in %s", capture.name, len(cameras.views), args.output)


@dataclass(frozen=True)
class Result:
    """The files of the result that is exported."""

    poses: Path
    mesh: Path | None
    iteration: int | None


def choose(
    poses: list[Path],
    meshes: list[Path] | None,
    iterations: list[int] | None,
    selection: Path | None,
) -> Result:
    """The only candidate, or the one whose iteration the selection names. Raises InputError."""
    if meshes and len(meshes) != len(poses):
        raise InputError(f"--mesh: {len(meshes)} files for the {len(poses)} of --poses")
    if iterations and len(iterations) != len(poses):
        raise InputError(f"--iterations: {len(iterations)} numbers for the {len(poses)} of --poses")
    index = 0
    if selection is not None and iterations:
        content = read_json(selection)
        if content.get("iteration") not in iterations:
            raise InputError(
                f"{selection}: 'iteration' must be one of --iterations "
                f"({', '.join(map(str, iterations))}), not {content.get('iteration')}"
            )
        index = iterations.index(content["iteration"])
    elif selection is not None or len(poses) > 1:
        raise InputError("several --poses need --iterations and --selection to choose one of them")
    return Result(
        poses[index],
        meshes[index] if meshes else None,
        iterations[index] if iterations else None,
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError naming it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a JSON object")
    return content
