"""`pmni synthesize`: a capture with exact ground truth, of a formula or of any mesh."""

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pmni.config.base import settings_from_argument
from pmni.config.capture import SynthesizeSettings
from pmni.errors import InputError
from pmni.geometry.cameras import invert_rigid
from pmni.io.atomic import atomic_folder
from pmni.runtime.provenance import record
from pmni.synthetic.measure import measure
from pmni.synthetic.raytrace import MeshSurface, load_mesh
from pmni.synthetic.rendering import Surface, render
from pmni.synthetic.rig import (
    check_in_view,
    handheld_poses,
    intrinsics,
    random_poses,
    turntable_poses,
)
from pmni.synthetic.scenes import HALF_SIDE, SCENES
from pmni.synthetic.solid import make_solid
from pmni.synthetic.spheretrace import AnalyticSurface
from pmni.synthetic.writer import Layout, write_cameras, write_normals, write_truth, write_view

log = logging.getLogger("pmni.data")

SCENE_RADIUS = 1.25
"""Radius of the normalised world's unit sphere, in radii of the object."""

DEPTH_SCALE_SPREAD = 0.03
"""The unknown factors of integrated depth lie this far around 1."""

FACES_PER_ROW = 800
"""Triangles of an analytic scene's mesh for each row of the image."""

# Streams of random numbers; those of the errors are named in `measure`.
_POSES, _SCALES, _ORDER = 0, 1, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `pmni synthesize`."""
    parser.add_argument(
        "--settings",
        help=f"YAML file or inline JSON; `scene` is {', '.join(SCENES)}, or a mesh file",
    )
    parser.add_argument("--output", type=Path, required=True, help="the capture's folder")


def run(args: argparse.Namespace) -> None:
    """Write a capture in the SuperNormal layout."""
    settings = settings_from_argument(SynthesizeSettings, args.settings)
    output = Path(args.output)
    if output.is_dir() and any(output.iterdir()) and not (output / "scene.json").is_file():
        raise InputError(f"{output}: is there and is not a synthetic capture; name another folder")
    inputs = {} if settings.scene in SCENES else {"mesh": Path(settings.scene)}
    with (
        atomic_folder(output) as folder,
        record("synthesize", folder / "provenance.json", settings, inputs),
    ):
        synthesize(make_surface(settings), settings, folder)


def make_surface(settings: SynthesizeSettings) -> Surface:
    """The analytic scene or the mesh that `settings` names, in mm, centred at the origin."""
    if settings.scene in SCENES:
        faces = int(np.clip(FACES_PER_ROW * settings.height, 80_000, 400_000))
        solid = make_solid(SCENES[settings.scene](), HALF_SIDE, faces)
        return AnalyticSurface(solid.fitted(settings.radius))
    path = Path(settings.scene)
    if not path.is_file():
        raise InputError(
            f"scene '{settings.scene}': neither a known scene ({', '.join(SCENES)}) nor a mesh file"
        )
    return MeshSurface(load_mesh(path, settings.up, settings.radius, settings.subdivide))


def synthesize(surface: Surface, settings: SynthesizeSettings, folder: Path) -> None:
    """Render all views of a surface and write them with cameras and truth into `folder`."""

    def stream(number: int) -> np.random.Generator:
        return np.random.default_rng([settings.seed, number])

    views, height, width = settings.views, settings.height, settings.width
    K = intrinsics(height, width)
    c2w = _poses(settings, stream(_POSES))
    order = stream(_ORDER).permutation(views) if settings.shuffle else np.arange(views)
    c2w = c2w[order]
    check_in_view(surface.mesh.vertices, K, invert_rigid(c2w), height, width)

    layout = Layout(folder, views, SCENE_RADIUS * settings.radius, settings.known_poses)
    depth_scales = 1 + DEPTH_SCALE_SPREAD * stream(_SCALES).uniform(-1, 1, views)
    wrong = settings.normal_set == "normal_camera_space_noisy"
    depths, covered, errors = [], [], []
    seen = render(surface, K, c2w, height, width)
    for index, (view, measured) in enumerate(measure(seen, c2w, surface.mesh, settings, stream)):
        write_view(layout, index, view, measured.mask, c2w[index], float(depth_scales[index]))
        if wrong:
            write_normals(layout, index, "noisy", measured.normals, c2w[index], half=True)
            errors.append(measured.error_deg)
        depths.append(view.depth.astype(np.float32))
        covered.append(float(view.mask.mean()))
    write_cameras(layout, K, c2w)
    description = {
        "scene": Path(settings.scene).stem,
        "settings": settings.model_dump(mode="json"),
        "intrinsics": K.tolist(),
        "object_radius": settings.radius,
        "faces": len(surface.mesh.faces),
        "covered": covered,
        "normal_error_deg": errors,
    }
    truth: dict[str, Any] = {"depth_scales": depth_scales.tolist()}
    if settings.shuffle:
        truth["order"] = order.tolist()
    write_truth(layout, surface.mesh, c2w, np.stack(depths), description, truth)
    log.info(
        "%s: %d views of %d x %d, the object covers %.0f %% of the images",
        settings.scene, views, width, height, 100 * np.mean(covered),
    )  # fmt: skip


def _poses(settings: SynthesizeSettings, rng: np.random.Generator) -> Float[np.ndarray, "V 4 4"]:
    """c2w of the rig that `settings` asks for, in the order in which it is gone round."""
    views, distance, jitter = settings.views, settings.distance, settings.pose_jitter
    if settings.poses == "turntable":
        return turntable_poses(views, np.deg2rad(settings.elevation), distance, jitter, rng)
    if settings.poses == "handheld":
        return handheld_poses(views, distance, jitter, rng)
    return random_poses(views, distance, jitter, rng)
