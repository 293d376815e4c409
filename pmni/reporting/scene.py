"""What the 3D viewers show of an object: its surfaces and cameras in one frame, in millimetres."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from pmni.config.reporting import ReportSettings
from pmni.data.capture import Capture
from pmni.evaluation.alignment import align_rotations
from pmni.geometry.mesh import Mesh
from pmni.geometry.poses import Poses
from pmni.geometry.transforms import Similarity
from pmni.io.ply import read_ply
from pmni.io.poses import read_poses
from pmni.reporting import images, meshes
from pmni.reporting.results_index import Run, Unavailable, load, read_json

START = "start"
"""Key of the initial poses."""

MIN_COMMON_UP = 0.3
"""Least length of the mean of the cameras' upward unit vectors for a common upward direction."""

DISTANCE_PERCENTILE = 95
"""Percentage of each result's vertices that the colour scale of distances covers."""

CAMERA_DECIMALS = 5
"""Decimals of camera matrices in the page; translations are in dataset units."""


@dataclass(frozen=True)
class Surface:
    """A reconstructed surface at one iteration, moved into the reference's frame."""

    run: Run
    iteration: int
    mesh: Mesh
    """Dataset units."""
    distances: Float[np.ndarray, " N"] | None
    """Distance of each vertex to the ground-truth surface, mm."""


@dataclass
class SceneParts:
    """Everything of an object that can be shown in 3D."""

    surfaces: list[Surface] = field(default_factory=list)
    cameras: dict[str, dict[str, Poses]] = field(default_factory=dict)
    """By experiment, then by `start` or iteration; dataset units, in the reference's frame."""
    problems: list[Unavailable] = field(default_factory=list)


@dataclass
class Scene:
    """A scene as `viewer.js` takes it, and the packed data that it refers to."""

    content: dict[str, Any]
    blobs: dict[str, str]
    problems: list[Unavailable]


@dataclass(frozen=True)
class Frame:
    """Dataset units about the object's centre: x_scene = X_dataset - centre."""

    centre: Float[np.ndarray, "3"]
    radius: float

    @staticmethod
    def around(vertices: Float[np.ndarray, "N 3"]) -> "Frame":
        """The middle of the bounding box, and the farthest vertex from it."""
        centre = (vertices.min(0) + vertices.max(0)) / 2
        return Frame(centre, float(np.linalg.norm(vertices - centre, axis=1).max()))

    def cameras(self, views: tuple[str, ...], c2w: np.ndarray) -> dict[str, list[float]]:
        """3x4 camera-to-world matrices (dataset units), row by row, by view."""
        rows = c2w[:, :3].copy()
        rows[:, :, 3] -= self.centre
        rows = np.round(rows.reshape(-1, 12), CAMERA_DECIMALS)
        return {view: row.tolist() for view, row in zip(views, rows, strict=True)}


Shown = dict[Run, tuple[int, ...]]
"""Runs, and the iterations whose surface can be shown."""


def collect_parts(capture: Capture, shown: Shown) -> SceneParts:
    """All surfaces and cameras that are there, and which files are not.

    Every surface and its cameras are moved as they were for their evaluation; without one, onto
    the reference cameras; without these, they stay in their own frame.
    """
    parts = SceneParts()
    for run, steps in shown.items():
        cameras = parts.cameras.setdefault(run.experiment.name, {})
        for step in (None, *steps):
            path = run.folder.registration.poses if step is None else run.folder.poses(step)
            alignment = Similarity.identity()
            try:
                poses = in_dataset(load(path, read_poses), capture)
                alignment = alignment_of(run, step, poses, capture)
                moved = alignment.move_cameras(poses.c2w)
                cameras[START if step is None else str(step)] = Poses(poses.views, moved)
            except Unavailable as error:
                parts.problems.append(error)
            if step is None:
                continue
            try:
                mesh = load(run.folder.mesh(step), _read_surface)
                distances = _distances(run, step, mesh)
            except Unavailable as error:
                parts.problems.append(error)
                continue
            vertices = alignment(mesh.vertices.astype(float))
            parts.surfaces.append(Surface(run, step, Mesh(vertices, mesh.faces), distances))
    return parts


def in_dataset(poses: Poses, capture: Capture) -> Poses:
    """Poses of the normalised world with their centres in dataset units."""
    scaled = Similarity(capture.scale, np.eye(3), capture.offset).move_cameras(poses.c2w)
    return Poses(poses.views, scaled)


def alignment_of(run: Run, step: int | None, poses: Poses, capture: Capture) -> Similarity:
    """What moves an iteration's world onto the reference's, dataset units. Raises Unavailable."""
    if step is not None and run.folder.metrics(step).exists():
        return load(run.folder.metrics(step), read_similarity)
    if capture.reference_c2w is None:
        return Similarity.identity()
    reference = in_dataset(Poses(capture.views, capture.reference_c2w), capture)
    return align_rotations(poses.c2w, reference.select(poses.views))


def read_similarity(path: Path) -> Similarity:
    """The similarity that a surface was moved by before its numbers were taken."""
    told = json.loads(path.read_text(encoding="utf-8"))["similarity"]
    rotation, shift = np.array(told["rotation"], float), np.array(told["shift"], float)
    return Similarity(float(told["scale"]), rotation, shift)


def _read_surface(path: Path) -> Mesh:
    mesh = read_ply(path)
    if len(mesh.faces) == 0:
        raise ValueError("it has no faces")
    return mesh


def _distances(run: Run, iteration: int, mesh: Mesh) -> Float[np.ndarray, " N"] | None:
    path = run.folder.error_maps(iteration)
    if not path.exists():
        return None  # not evaluated: the surface is shown all the same
    distances = load(path, read_surface_distances)
    if distances is not None and len(distances) != len(mesh.vertices):
        raise Unavailable(path, "belongs to another mesh (its number of vertices differs)")
    return distances


def read_surface_distances(path: Path) -> Float[np.ndarray, " N"] | None:
    """Distance of each vertex to the ground-truth surface, mm; NaN where no view sees it.

    None where there is no truth.
    """
    with np.load(path, allow_pickle=False) as archive:
        distances = archive["surface_distance_mm"].astype(float)
        if len(distances) == 0:
            return None
        return np.where(archive["seen"], distances, np.nan)


def build_scene(capture: Capture, shown: Shown, settings: ReportSettings, name: str) -> Scene:
    """The scene of one object. Raises Unavailable if there is no surface at all."""
    parts = collect_parts(capture, shown)
    truth = capture.ground_truth_mesh
    about = truth or (parts.surfaces[-1].mesh if parts.surfaces else None)
    if about is None:
        raise parts.problems[0] if parts.problems else Unavailable(Path(name), "no surface")
    frame = Frame.around(np.asarray(about.vertices, float))
    described, blobs = [], {}
    for surface in parts.surfaces:
        fine = surface.iteration in surface.run.candidates
        group = surface.run.experiment.name
        entry, packed = _packed(
            surface.mesh, surface.distances, frame, settings.faces if fine else settings.faces_early
        )
        entry |= {"key": f"{group}/{surface.iteration}", "group": group}
        entry["label"] = surface.run.title_of(surface.iteration)
        entry["iteration"] = str(surface.iteration)
        entry["note"] = _note(surface.run, surface.iteration)
        entry["blob"] = f"mesh-{name}-{group}-{surface.iteration}"
        described.append(entry)
        blobs[entry["blob"]] = packed
    if truth is not None:
        entry, packed = _packed(truth, None, frame, settings.faces)
        entry |= {"key": "truth", "group": "", "label": "Ground truth", "blob": f"mesh-{name}"}
        described.append(entry)
        blobs[entry["blob"]] = packed
    content = _cameras(capture, frame, parts)
    content |= {"surfaces": described, "radius": frame.radius}
    content["first"] = _first(described, list(shown))
    content |= {"valueTop": _value_top(parts.surfaces), "atlas": f"atlas-{name}"}
    blobs[content["atlas"]] = _atlas(capture, settings)
    return Scene(content, blobs, parts.problems)


def _packed(
    mesh: Mesh, values: Float[np.ndarray, " N"] | None, frame: Frame, largest: int
) -> tuple[dict[str, Any], str]:
    vertices = np.asarray(mesh.vertices, float) - frame.centre
    small = meshes.simplify(vertices, np.asarray(mesh.faces), largest)
    if values is not None:
        values = meshes.average(values, small.cluster, len(small.vertices))
    header, packed = meshes.pack(small.vertices, small.normals, small.faces, values)
    return {"header": header}, packed


def _cameras(capture: Capture, frame: Frame, parts: SceneParts) -> dict[str, Any]:
    """Cameras of all experiments, and where the viewer looks from at first."""
    reference = None
    if capture.reference_c2w is not None:
        poses = in_dataset(Poses(capture.views, capture.reference_c2w), capture)
        reference = frame.cameras(poses.views, poses.c2w)
    sets: list[dict[str, Any]] = [
        {"group": group, "sets": {key: frame.cameras(p.views, p.c2w) for key, p in places.items()}}
        for group, places in parts.cameras.items()
    ]
    known = [reference] if reference else [s for each in sets for s in each["sets"].values()]
    up, towards = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    if known:
        c2w = np.array(list(known[0].values())).reshape(-1, 3, 4)
        mean_up = -c2w[:, :, 1].mean(0)
        # cameras of any roll have no common up
        up = mean_up if np.linalg.norm(mean_up) > MIN_COMMON_UP else up
        towards = c2w[0, :, 3]
    height, width = capture.masks.shape[1:]
    return {
        "reference": reference,
        "cameras": sets,
        "views": list(capture.views),
        "up": up.tolist(),
        "towards": towards.tolist(),
        "aspect": width / height,
    }


def _note(run: Run, iteration: int) -> str:
    """The Chamfer distance of a surface as text; empty if it was not evaluated."""
    try:
        value = read_json(run.folder.metrics(iteration)).get("chamfer_mm")
    except Unavailable:
        return ""
    return f"Chamfer {value:.3g} mm" if isinstance(value, int | float) else ""


def _first(described: list[dict[str, Any]], runs: list[Run]) -> str:
    """The surface shown at first: the result of the first experiment that has one."""
    there = [entry["key"] for entry in described]
    wanted = [f"{run.experiment.name}/{run.result}" for run in runs]
    return next((key for key in [*wanted, *there] if key in there), "")


def _value_top(surfaces: list[Surface]) -> float:
    """End of the distance scale: what most vertices of each result stay under; 0 without any."""
    reach = [
        float(np.nanpercentile(surface.distances, DISTANCE_PERCENTILE))
        for surface in surfaces
        if surface.distances is not None
        and surface.iteration == surface.run.result
        and np.isfinite(surface.distances).any()
    ]
    return float(f"{max(reach):.2g}") if reach else 0.0


def _atlas(capture: Capture, settings: ReportSettings) -> str:
    """Thumbnails of all views on one sheet, for the cameras."""
    side = settings.thumbnail
    tiles = []
    for normals, mask in zip(capture.normals, capture.masks, strict=True):
        thumbnail = images.normal_image(normals, mask)
        tiles.append(cv2.resize(thumbnail, (side, side), interpolation=cv2.INTER_AREA))
    return images.data_uri(images.sprite_sheet(tiles, side), settings.image_quality)
