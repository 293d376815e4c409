"""A tiny scene with analytic truth, written in each dataset layout."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import trimesh
from scipy.io import savemat

from pmni.cameras import invert_rigid, look_at, pixel_grid, ray_directions
from pmni.io.images import write_mask, write_normal_map

FLIP = np.array([1.0, -1.0, -1.0])
"""Camera frame <-> camera-space files (x right, y up, z towards the camera)."""
SCALE, OFFSET = 90.0, np.array([12.0, -7.0, 30.0])
"""X_dataset = SCALE * X_normalised + OFFSET, for cameras_sphere.npz."""
SPHERES = np.array([[0, 0, 0, 50.0], [45, 10, 20, 25.0], [-20, -40, 35, 20.0]])
"""Centres (relative to OFFSET) and radii, mm."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """Spheres seen by cameras around them, mm."""

    K: np.ndarray
    c2w: np.ndarray
    masks: np.ndarray
    normals: np.ndarray
    """Camera frame (OpenCV)."""
    distances: np.ndarray
    mesh: trimesh.Trimesh

    @property
    def normalised_c2w(self) -> np.ndarray:
        """The poses in the normalised world of SCALE and OFFSET."""
        moved = self.c2w.copy()
        moved[:, :3, 3] = (self.c2w[:, :3, 3] - OFFSET) / SCALE
        return moved


@functools.cache
def spheres(views: int = 5, height: int = 48, width: int = 56) -> Scene:
    """The scene, rendered exactly."""
    focal = 6.0 * height
    K = np.array([[focal, 0, width / 2 + 1.5], [0, 0.98 * focal, height / 2 - 2.25], [0, 0, 1.0]])
    rng = np.random.default_rng(1)
    c2w, masks, normals, distances = [], [], [], []
    for azimuth in 2 * np.pi * np.arange(views) / views + 0.3:
        direction = np.array([np.cos(azimuth), np.sin(azimuth), 0.45])
        position = OFFSET + (1000 + rng.normal(0, 20)) * direction / np.linalg.norm(direction)
        pose = look_at(position, OFFSET + rng.normal(0, 3, 3), roll=rng.normal(0, 0.1))
        mask, normal, distance = render(K, pose, height, width)
        c2w.append(pose)
        masks.append(mask)
        normals.append(normal)
        distances.append(distance)
    balls = [
        trimesh.creation.icosphere(2, radius).apply_translation(centre + OFFSET)
        for *centre, radius in SPHERES.tolist()
    ]
    mesh = trimesh.util.concatenate(balls)
    return Scene(K, *(np.stack(x) for x in (c2w, masks, normals, distances)), mesh)


def render(K, pose, height, width):
    rays = ray_directions(pixel_grid(height, width), np.linalg.inv(K))
    nearest, normals = np.full((height, width), np.inf), np.zeros((height, width, 3))
    for *centre, radius in SPHERES.tolist():
        local = (np.array(centre) + OFFSET - pose[:3, 3]) @ pose[:3, :3]
        along = rays @ local
        inner = along**2 - local @ local + radius**2
        distance = along - np.sqrt(np.maximum(inner, 0))
        closer = (inner > 0) & (distance < nearest)
        nearest[closer] = distance[closer]
        normals[closer] = (distance[..., None] * rays - local)[closer] / radius
    mask = np.isfinite(nearest)
    return mask, normals, np.where(mask, nearest, np.nan)


def write_supernormal(folder: Path, scene: Scene, cameras: bool = True) -> Path:
    """All that the layout can hold: two kinds of normals, truth, distances, mesh."""
    for name in ("mask", "normal_camera_space_x", "normal_world_space_x", "normal_camera_space_GT"):
        (folder / name).mkdir(parents=True)
    (folder / "integration" / "perspective").mkdir(parents=True)
    matrices = {}
    for i, (mask, normals, pose) in enumerate(
        zip(scene.masks, scene.normals, scene.c2w, strict=True)
    ):
        write_mask(folder / "mask" / f"{i:02d}.png", mask)
        camera, world = normals * FLIP, normals @ pose[:3, :3].T
        write_normal_map(folder / "normal_camera_space_x" / f"{i:02d}.exr", camera)
        write_normal_map(folder / "normal_camera_space_GT" / f"{i:02d}.exr", camera)
        write_normal_map(folder / "normal_world_space_x" / f"{i:02d}.exr", world)
        distance = scene.distances[i] / SCALE / 14.6
        np.save(folder / "integration" / "perspective" / f"{i:02d}.npy", distance)
        K4 = np.eye(4)
        K4[:3, :3] = scene.K
        matrices[f"world_mat_{i}"] = K4 @ invert_rigid(pose)
        matrices[f"scale_mat_{i}"] = np.diag([SCALE] * 3 + [1.0])
        matrices[f"scale_mat_{i}"][:3, 3] = OFFSET
    if cameras:
        np.savez(folder / "cameras_sphere.npz", **matrices)
    np.savetxt(folder / "K.txt", scene.K)
    scene.mesh.export(folder / "mesh_Gt.ply")
    return folder


def write_diligent(folder: Path, scene: Scene, mesh: bool = True) -> Path:
    """The published layout of DiLiGenT-MV."""
    calibration = {"KK": scene.K}
    for i, (mask, normals, pose) in enumerate(
        zip(scene.masks, scene.normals, scene.c2w, strict=True), start=1
    ):
        view = folder / f"view_{i:02d}"
        view.mkdir(parents=True)
        write_mask(view / "mask.png", mask)
        savemat(view / "Normal_gt.mat", {"Normal_gt": normals * FLIP})
        w2c = invert_rigid(pose)
        calibration |= {f"Rc_{i}": w2c[:3, :3], f"Tc_{i}": w2c[:3, 3:]}
    savemat(folder / "Calib_Results.mat", calibration)
    if mesh:
        scene.mesh.export(folder / "mesh_Gt.ply")
    return folder


def write_own(folder: Path, scene: Scene, suffix: str = ".exr", poses: bool = False) -> Path:
    """One's own object: normals in `ps`, masks, K."""
    (folder / "ps").mkdir(parents=True)
    (folder / "masks").mkdir()
    for i, (mask, normals) in enumerate(zip(scene.masks, scene.normals, strict=True)):
        write_mask(folder / "masks" / f"shot{i}.png", mask)
        write_normal_map(folder / "ps" / f"shot{i}{suffix}", normals * FLIP)
    np.savetxt(folder / "K.txt", scene.K)
    if poses:
        matrices = {f"shot{i}": pose.tolist() for i, pose in enumerate(scene.c2w)}
        (folder / "poses.json").write_text(json.dumps({"camera_to_world": matrices}))
    return folder
