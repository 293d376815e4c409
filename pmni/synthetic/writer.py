"""Writes captures in the layout of SuperNormal and PMNI, with ground truth.

    K.txt                              3x3 intrinsics, the same for all views
    cameras_sphere.npz                 world_mat_i = K w2c and scale_mat_i, 4x4
    mask/00.png ...                    255 on the object
    normal_camera_space_GT/00.exr      exact normals: x right, y up, z towards the camera
    normal_world_space_GT/00.exr       the same in the world
    normal_camera_space_noisy/00.exr   with measurement errors (where there are any)
    normal_world_space_noisy/00.exr
    integration/depth/00.npy           depth along the optical axis, scale unknown (see below)
    integration/perspective/00.npy     distance along the pixel's ray, in the same unit
    mesh_Gt.ply                        the surface, in mm, with exact normals
    scene.json                         how it was made: settings, poses, sizes
    gt/depth.npz, gt/scene.json        depth in mm; true poses and scales

Lengths are in mm, world z is up, cameras are OpenCV's, pixel centres are at integers. scale_mat_i
maps the unit sphere to a sphere of `scene_radius` mm. The maps in `integration` are in that unit
(mm / scene_radius) times a factor near 1, unknown and another one for each view; they are NaN off
the object.

Without known poses, K.txt, masks and camera-space normals are all that the folder holds;
cameras_sphere.npz, mesh_Gt.ply and all other ground truth are in `gt`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Bool, Float

from pmni.geometry.cameras import flip_yz, invert_rigid
from pmni.geometry.mesh import Mesh
from pmni.geometry.silhouettes import extrapolate
from pmni.io.images import write_mask, write_normal_map
from pmni.synthetic.rendering import View


@dataclass(frozen=True)
class DatasetFolder:
    """Where and in which units a capture is written."""

    folder: Path
    views: int
    scene_radius: float
    """Length of scale_mat's unit, mm."""
    known_poses: bool = True
    """Whether poses and mesh are beside the images, or only in `gt`."""

    @property
    def ground_truth(self) -> Path:
        """Where the cameras and the mesh are written."""
        return self.folder if self.known_poses else self.folder / "gt"

    def name(self, view: int) -> str:
        """The file name of a view, without suffix: two digits, or as many as the last one has."""
        return f"{view:0{max(2, len(str(self.views - 1)))}d}"

    def file(self, kind: str, view: int, suffix: str) -> Path:
        """The path of one image; its folder is made."""
        folder = self.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.name(view)}{suffix}"


def write_normals(
    output: DatasetFolder,
    view: int,
    kind: str,
    normals: Float[np.ndarray, "H W 3"],
    c2w: Float[np.ndarray, "4 4"],
    half: bool,
) -> None:
    """Normals given in the camera frame, written in the camera's (file axes) and, with known
    poses, the world's."""
    write_normal_map(
        output.file(f"normal_camera_space_{kind}", view, ".exr"), flip_yz(normals), half
    )
    if output.known_poses:
        write_normal_map(
            output.file(f"normal_world_space_{kind}", view, ".exr"), normals @ c2w[:3, :3].T, half
        )


def write_view(
    output: DatasetFolder,
    index: int,
    view: View,
    mask: Bool[np.ndarray, "H W"],
    c2w: Float[np.ndarray, "4 4"],
    depth_scale: float,
) -> None:
    """The measured mask, exact normals, and with known poses depth with the unknown factor
    `depth_scale`; where the mask is too large, the nearest pixel's depth."""
    write_mask(output.file("mask", index, ".png"), mask)
    write_normals(output, index, "GT", view.normals, c2w, half=False)
    if not output.known_poses:
        return
    unit = output.scene_radius / depth_scale
    for kind, image in (("depth", view.depth), ("perspective", view.ray_distance)):
        measured = np.where(mask, extrapolate(image, view.mask), np.nan)
        np.save(
            output.file(f"integration/{kind}", index, ".npy"), (measured / unit).astype(np.float32)
        )


def write_cameras(
    output: DatasetFolder, K: Float[np.ndarray, "3 3"], c2w: Float[np.ndarray, "V 4 4"]
) -> None:
    """`K.txt` and `cameras_sphere.npz`."""
    np.savetxt(output.folder / "K.txt", K)
    K4 = np.eye(4)
    K4[:3, :3] = K
    matrices = {f"world_mat_{view}": K4 @ w2c for view, w2c in enumerate(invert_rigid(c2w))}
    scale_mat = np.diag([output.scene_radius] * 3 + [1.0])
    matrices |= {f"scale_mat_{view}": scale_mat for view in range(output.views)}
    output.ground_truth.mkdir(exist_ok=True)
    np.savez(output.ground_truth / "cameras_sphere.npz", **matrices)


def write_ground_truth(
    output: DatasetFolder,
    mesh: Mesh,
    c2w: Float[np.ndarray, "V 4 4"],
    depths: Float[np.ndarray, "V H W"],
    description: dict[str, Any],
    ground_truth: dict[str, Any],
) -> None:
    """The mesh, `scene.json` and the folder `gt`.

    `ground_truth` is for `gt/scene.json`; with known poses, `scene.json` holds it as well.
    """
    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=mesh.normals, process=False)
    surface.export(output.ground_truth / "mesh_Gt.ply", vertex_normal=True)
    ground_truth = {
        "unit": "mm",
        "scene_radius": output.scene_radius,
        "depth_init_scale": 1.0,
        **ground_truth,
        "poses_c2w": c2w.tolist(),
    }
    gt = output.folder / "gt"
    gt.mkdir(exist_ok=True)
    np.savez_compressed(gt / "depth.npz", depth=depths.astype(np.float32))
    (gt / "scene.json").write_text(json.dumps(ground_truth, indent=1) + "\n", encoding="utf-8")
    content = {**description, **ground_truth} if output.known_poses else description
    (output.folder / "scene.json").write_text(
        json.dumps(content, indent=1) + "\n", encoding="utf-8"
    )
