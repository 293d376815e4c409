"""Synthetic captures with exact ground truth, of an analytic scene or of any mesh."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pmni.config.capture import SynthesizeSettings
from pmni.errors import InputError
from pmni.geometry.cameras import invert_rigid
from pmni.synthetic.analytic_surface import AnalyticSurface
from pmni.synthetic.camera_rig import (
    check_in_view,
    handheld_poses,
    intrinsics,
    random_poses,
    turntable_poses,
)
from pmni.synthetic.mesh_surface import MeshSurface, load_mesh
from pmni.synthetic.rendering import Surface, render
from pmni.synthetic.scenes import HALF_SIDE, SCENES
from pmni.synthetic.sensor import simulate_sensor
from pmni.synthetic.tessellation import tessellate
from pmni.synthetic.writer import (
    DatasetFolder,
    write_cameras,
    write_ground_truth,
    write_normals,
    write_view,
)

log = logging.getLogger("pmni.data")

SCENE_RADIUS = 1.25
"""Radius of the normalised world's unit sphere, in radii of the object."""
DEPTH_SCALE_SPREAD = 0.03
"""Largest deviation from 1 of the unknown scales of depth maps."""
FACES_PER_ROW = 800
"""Triangles of an analytic scene's mesh for each row of the image."""
FACES_RANGE = 80_000, 400_000
"""Smallest and largest number of triangles of an analytic scene's mesh."""
_POSE_STREAM = 0
"""Stream of random numbers of the poses; those of errors are in `simulate_sensor`."""
_SCALE_STREAM = 1
"""Stream of random numbers of the depth scales."""
_ORDER_STREAM = 3
"""Stream of random numbers of the order of views."""


def make_surface(settings: SynthesizeSettings) -> Surface:
    """The analytic scene or the mesh that `settings` names, in mm, centred at the origin."""
    if settings.scene in SCENES:
        faces = int(np.clip(FACES_PER_ROW * settings.height, *FACES_RANGE))
        shape = tessellate(SCENES[settings.scene](), HALF_SIDE, faces)
        return AnalyticSurface(shape.scaled_to(settings.radius))
    path = Path(settings.scene)
    if not path.is_file():
        raise InputError(
            f"scene '{settings.scene}': neither a known scene ({', '.join(SCENES)}) nor a mesh file"
        )
    return MeshSurface(load_mesh(path, settings.up, settings.radius, settings.subdivide))


def synthesize(surface: Surface, settings: SynthesizeSettings, folder: Path) -> None:
    """Render all views of a surface; write them, cameras and ground truth into `folder`."""

    def stream(number: int) -> np.random.Generator:
        return np.random.default_rng([settings.seed, number])

    views, height, width = settings.views, settings.height, settings.width
    K = intrinsics(height, width)
    c2w = _poses(settings, stream(_POSE_STREAM))
    order = stream(_ORDER_STREAM).permutation(views) if settings.shuffle else np.arange(views)
    c2w = c2w[order]
    check_in_view(surface.mesh.vertices, K, invert_rigid(c2w), height, width)

    output = DatasetFolder(folder, views, SCENE_RADIUS * settings.radius, settings.known_poses)
    depth_scales = 1 + DEPTH_SCALE_SPREAD * stream(_SCALE_STREAM).uniform(-1, 1, views)
    has_errors = settings.normal_set == "normal_camera_space_noisy"
    depths, covered, errors = [], [], []
    rendered = render(surface, K, c2w, height, width)
    measured = simulate_sensor(rendered, c2w, surface.mesh, settings, stream)
    for index, (view, measurement) in enumerate(measured):
        write_view(output, index, view, measurement.mask, c2w[index], float(depth_scales[index]))
        if has_errors:
            write_normals(output, index, "noisy", measurement.normals, c2w[index], half=True)
            errors.append(measurement.error_deg)
        depths.append(view.depth.astype(np.float32))
        covered.append(float(view.mask.mean()))
    write_cameras(output, K, c2w)
    description = {
        "scene": Path(settings.scene).stem,
        "settings": settings.model_dump(mode="json"),
        "intrinsics": K.tolist(),
        "object_radius": settings.radius,
        "faces": len(surface.mesh.faces),
        "covered": covered,
        "normal_error_deg": errors,
    }
    ground_truth: dict[str, Any] = {"depth_scales": depth_scales.tolist()}
    if settings.shuffle:
        ground_truth["order"] = order.tolist()
    write_ground_truth(output, surface.mesh, c2w, np.stack(depths), description, ground_truth)
    log.info(
        "%s: %d views of %d x %d, the object covers %.0f %% of the images",
        settings.scene, views, width, height, 100 * np.mean(covered),
    )  # fmt: skip


def _poses(settings: SynthesizeSettings, rng: np.random.Generator) -> Float[np.ndarray, "V 4 4"]:
    """c2w of the rig that `settings` asks for, in the order of the azimuths."""
    views, distance, jitter = settings.views, settings.distance, settings.pose_jitter
    if settings.poses == "turntable":
        return turntable_poses(views, np.deg2rad(settings.elevation), distance, jitter, rng)
    if settings.poses == "handheld":
        return handheld_poses(views, distance, jitter, rng)
    return random_poses(views, distance, jitter, rng)
