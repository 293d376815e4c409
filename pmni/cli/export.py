"""`pmni export`: poses for other software, and a picture of the cameras around the object."""

import json
import logging
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pmni.data.capture import Capture, load_capture
from pmni.data.readers.files import read_mesh
from pmni.errors import InputError
from pmni.exporting.cameras import Cameras, Points, cameras_of, no_points, sample_surface
from pmni.exporting.colmap import write_colmap
from pmni.exporting.nerfstudio import write_points, write_transforms
from pmni.exporting.neus import write_cameras_sphere
from pmni.exporting.picture import write_picture
from pmni.geometry.mesh import Mesh
from pmni.geometry.poses import Poses
from pmni.io.atomic import atomic_folder
from pmni.io.images import write_mask, write_normal_map
from pmni.io.poses import read_poses, write_poses
from pmni.runtime.provenance import record

log = logging.getLogger(__name__)

FILE_AXES = np.array([1.0, -1.0, -1.0], np.float32)
"""Camera-space normal files are x right, y up, z towards the camera."""
NORMALS, MASKS, POINTS = "normal_camera_space", "mask", "points.ply"
FRAME = "dataset world; OpenCV cameras (x right, y down, z forward), pixel centres at integers"


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
    parser.add_argument("--points", type=int, default=20_000, help="sampled from the mesh")
    parser.add_argument("--output", type=Path, required=True, help="folder for the exports")


def run(args: Namespace) -> None:
    """Run the stage. Views without a pose are left out."""
    if args.points < 1:
        raise InputError(f"--points: must be 1 or more, not {args.points}")
    chosen = choose(args.poses, args.mesh, args.iterations, args.selection)
    capture = load_capture(args.capture)
    cameras = cameras_of(capture, read_poses(chosen.poses), chosen.poses)
    initial = None
    inputs = {"capture": args.capture / "capture.npz", "poses": chosen.poses}
    if args.initial_poses:
        initial = cameras_of(capture, read_poses(args.initial_poses), args.initial_poses)
        if not set(initial.views) & set(cameras.views):
            raise InputError(f"{args.initial_poses}: has no pose of any view of {chosen.poses}")
        inputs["initial_poses"] = args.initial_poses
    mesh, points = None, no_points()
    if chosen.mesh:
        mesh = Mesh(*read_mesh(chosen.mesh))
        points = sample_surface(mesh.vertices, mesh.faces, args.points)
        inputs["mesh"] = chosen.mesh
    with (
        atomic_folder(args.output) as folder,
        record("export", folder / "provenance.json", None, inputs) as known,
    ):
        left_out = write_exports(folder, capture, cameras, points)
        write_picture(folder / "cameras.png", capture, cameras, initial, mesh)
        known |= {"views": len(cameras.views), "points": len(points.positions)}
        known |= {"iteration": chosen.iteration, "left_out": left_out}
    for name, reason in left_out.items():
        log.warning("%s is left out: %s", name, reason)
    log.info("%s: cameras of %d views in %s", capture.name, len(cameras.views), args.output)


@dataclass(frozen=True)
class Result:
    """The files of what is exported."""

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


def write_exports(
    folder: Path, capture: Capture, cameras: Cameras, points: Points
) -> dict[str, str]:
    """Write cameras in all formats, normal maps and masks; returns what was left out, and why.

    The folder is a data set in the layout of SuperNormal: `pmni prepare` reads it.
    """
    names = [f"{view}.png" for view in cameras.views]
    for kind in (NORMALS, MASKS):
        (folder / kind).mkdir()
    for view, name in zip(cameras.views, names, strict=True):
        index = capture.views.index(view)
        write_normal_map(folder / NORMALS / name, capture.normals[index] * FILE_AXES)
        write_mask(folder / MASKS / name, capture.masks[index])
    write_json(folder / "poses.json", cameras)
    write_cameras_sphere(folder / "cameras_sphere.npz", cameras)
    if len(points.positions):
        write_points(folder / POINTS, points)
    normals = [f"{NORMALS}/{name}" for name in names]
    masks = [f"{MASKS}/{name}" for name in names]
    cloud = POINTS if len(points.positions) else None
    left_out = {}
    try:
        write_transforms(folder / "transforms.json", cameras, normals, masks, normals, cloud)
    except InputError as error:
        left_out["transforms.json"] = str(error)
    try:
        write_colmap(folder / "sparse/0", cameras, names, points)
    except InputError as error:
        left_out["sparse"] = str(error)
    return left_out


def write_json(path: Path, cameras: Cameras) -> None:
    """All that the other formats hold, as plain JSON that `read_poses` understands."""
    intrinsics = zip(cameras.views, cameras.intrinsics.tolist(), strict=True)
    information = {
        "frame": FRAME,
        "image_size": [cameras.size[1], cameras.size[0]],
        "sphere": {"centre": cameras.offset.tolist(), "radius": cameras.scale},
        "intrinsics": dict(intrinsics),
    }
    write_poses(path, Poses(cameras.views, cameras.c2w, information))
