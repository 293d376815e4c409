"""What a reconstruction ends with: a mesh, cameras, and a surface that can be asked anything."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pmni.config.evaluation import EvaluateSettings
from pmni.config.meshing import RenderSettings
from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.evaluation.evaluate import Evaluation, evaluate
from pmni.exporting.poses import read_json, write_json
from pmni.exporting.scene import Cameras
from pmni.geometry.cameras import Camera
from pmni.geometry.mesh import Mesh
from pmni.geometry.poses import Poses
from pmni.io.ply import read_ply, write_ply
from pmni.io.poses import read_poses
from pmni.runtime.layout import ObjectFolder
from pmni.sdf.checkpoint import load_surface, save_band, save_surface
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.network import NeuralSDF
from pmni.sdf.rendering import render_surface
from pmni.sdf.residual import ResidualSDF

CPU = torch.device("cpu")
CHUNK = 1 << 18
"""Points that are evaluated at once."""
MESH_FILE = "mesh.ply"
"""The mesh in a saved reconstruction."""
SURFACE_FILE = "surface.safetensors"
"""The signed distance function in a saved reconstruction."""
CAMERAS_FILE = "poses.json"
"""The cameras in a saved reconstruction, as `pmni export` writes them."""


@dataclass(frozen=True)
class RenderedView:
    """What a camera sees of a surface."""

    normals: Float[np.ndarray, "H W 3"]
    """Unit normals in the camera frame (OpenCV axes), zero where there is no surface."""
    ray_distance: Float[np.ndarray, "H W"]
    """Distance along the unit viewing ray, dataset units, NaN where there is no surface."""

    @property
    def mask(self) -> Bool[np.ndarray, "H W"]:
        """Pixels whose ray hits the surface."""
        return np.isfinite(self.ray_distance)


@dataclass(frozen=True)
class Reconstruction:
    """A surface with the cameras that saw it, in the dataset's world and units.

    Without reference poses that is the normalised world, in which the object fills most of the unit
    sphere and whose orientation is arbitrary.
    """

    name: str
    """The object's name."""
    mesh: Mesh
    """Dataset units."""
    cameras: Mapping[str, Camera]
    """The cameras by view, dataset units."""
    surface: NarrowBandSDF | NeuralSDF | ResidualSDF
    """The signed distance function on [-1, 1]^3 of the normalised world."""
    scale: float = 1.0
    """Dataset units in a unit of the normalised world: X_dataset = scale X_normalised + offset."""
    offset: Float[np.ndarray, "3"] = field(default_factory=lambda: np.zeros(3))
    """Origin of the normalised world, dataset units."""
    iteration: int = 0
    """The optimiser step that the surface comes from; 0 is the refined surface."""
    initial_poses: Poses | None = None
    """The poses that registration found, normalised world, with what it says of them."""
    device: torch.device = CPU
    """Where the surface is evaluated."""

    @property
    def poses(self) -> Poses:
        """The cameras' poses in the normalised world."""
        c2w = np.stack([camera.c2w for camera in self.cameras.values()])
        c2w[:, :3, 3] = (c2w[:, :3, 3] - self.offset) / self.scale
        return Poses(tuple(self.cameras), c2w)

    @torch.no_grad()
    def sdf(self, x: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch"]:
        """Signed distances at points, dataset units; positive outside.

        Exact near the surface; a grid surface truncates values that are farther than some cells.
        Outside the cube around the unit sphere, the distance from the cube is added.
        """
        inside, beyond = self._points(x)
        values = torch.cat([self.surface(part) for part in inside.split(CHUNK)]).cpu().numpy()
        return (self.scale * (values + beyond)).reshape(np.shape(x)[:-1])

    @torch.no_grad()
    def normals(self, x: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """Unit normals at points (dataset units): the normalised gradient of the SDF."""
        parts = [
            torch.nn.functional.normalize(self.surface.value_and_gradient(part)[1], dim=-1)
            for part in self._points(x)[0].split(CHUNK)
        ]
        return torch.cat(parts).cpu().numpy().reshape(np.shape(x))

    def _points(
        self, x: Float[np.ndarray, "*batch 3"]
    ) -> tuple[Float[Tensor, "N 3"], Float[np.ndarray, " N"]]:
        """Points of the normalised cube, nearest to x, and their distances from x."""
        normalised = (np.asarray(x, np.float64).reshape(-1, 3) - self.offset) / self.scale
        inside = normalised.clip(-1, 1)
        beyond = np.linalg.norm(normalised - inside, axis=-1)
        return torch.from_numpy(inside.astype(np.float32)).to(self.device), beyond

    def render(self, camera: Camera | str) -> RenderedView:
        """Normals and ray distances that a camera sees: any camera, or that of a view by name."""
        if isinstance(camera, str):
            if camera not in self.cameras:
                raise InputError(f"no view '{camera}'; views are {', '.join(self.cameras)}")
            camera = self.cameras[camera]
        c2w = camera.c2w.copy()
        c2w[:3, 3] = (c2w[:3, 3] - self.offset) / self.scale
        shape = camera.height, camera.width
        images = render_surface(
            self.surface, camera.intrinsics[None], c2w[None], shape, RenderSettings(), self.device
        )
        return RenderedView(images.normals[0], images.distance[0] * np.float32(self.scale))

    def evaluate(self, capture: Capture, settings: EvaluateSettings | None = None) -> Evaluation:
        """Errors against the capture's ground truth, as far as it has any; see `pmni.evaluate`."""
        settings = settings or EvaluateSettings()
        return evaluate(capture, self.mesh, self.poses, self.initial_poses, settings)

    def save(self, folder: str | Path) -> None:
        """Write mesh, cameras and surface into a folder, from which `load` reads them."""
        folder = Path(folder)
        write_ply(folder / MESH_FILE, self.mesh)
        write_json(folder / CAMERAS_FILE, self._cameras())
        path, surface = folder / SURFACE_FILE, self.surface
        if isinstance(surface, NarrowBandSDF):
            save_band(path, surface)
        else:
            network = surface.correction if isinstance(surface, ResidualSDF) else surface
            save_surface(path, surface, network.settings, self.iteration)

    def _cameras(self) -> Cameras:
        cameras = list(self.cameras.values())
        return Cameras(
            views=tuple(self.cameras),
            size=(cameras[0].height, cameras[0].width),
            intrinsics=np.stack([camera.intrinsics for camera in cameras]),
            c2w=np.stack([camera.c2w for camera in cameras]),
            scale=self.scale,
            offset=self.offset,
        )

    @staticmethod
    def load(
        folder: str | Path, iteration: int | None = None, device: str | torch.device = "cpu"
    ) -> "Reconstruction":
        """A reconstruction that `save` has written, or the workflow: results/<experiment>/<object>.

        Args:
            folder: Its folder.
            iteration: The optimiser step, of those that the workflow has kept; None takes the one
                that is the result.
            device: Where the surface is evaluated.

        Raises InputError naming the file that is missing or damaged.
        """
        folder, device = Path(folder), torch.device(device)
        if (folder / SURFACE_FILE).is_file():
            cameras = read_json(folder / CAMERAS_FILE)
            return assemble(
                folder.resolve().name,
                read_ply(folder / MESH_FILE),
                cameras,
                load_surface(folder / SURFACE_FILE, device),
                device=device,
            )
        files = ObjectFolder(folder)
        selected = 0
        if files.training.selection.is_file():
            selected = _selected_iteration(files.training.selection)
        elif not files.refinement.surface.is_file():
            raise InputError(
                f"{folder}: neither a saved reconstruction nor results of an experiment"
            )
        iteration = selected if iteration is None else iteration
        cameras = read_json(files.export.poses)
        if iteration != selected:
            cameras = _with_poses(cameras, read_poses(files.poses(iteration)))
        initial = files.registration.poses
        return assemble(
            folder.resolve().name,
            read_ply(files.mesh(iteration)),
            cameras,
            load_surface(files.surface(iteration), device),
            iteration=iteration,
            initial_poses=read_poses(initial) if initial.is_file() else None,
            device=device,
        )


def _selected_iteration(path: Path) -> int:
    """The iteration that a training has selected. Raises InputError naming the file."""
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["iteration"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: does not say which iteration is the result") from None


def _with_poses(cameras: Cameras, poses: Poses) -> Cameras:
    """The cameras at other poses, given in the normalised world."""
    c2w = poses.select(cameras.views).copy()
    c2w[:, :3, 3] = cameras.scale * c2w[:, :3, 3] + cameras.offset
    return replace(cameras, c2w=c2w)


def assemble(
    name: str,
    mesh: Mesh,
    cameras: Cameras,
    surface: NarrowBandSDF | NeuralSDF | ResidualSDF,
    iteration: int = 0,
    initial_poses: Poses | None = None,
    device: torch.device = CPU,
) -> Reconstruction:
    """A reconstruction from its parts."""
    height, width = cameras.size
    by_view = {
        view: Camera(K, c2w, width, height)
        for view, K, c2w in zip(cameras.views, cameras.intrinsics, cameras.c2w, strict=True)
    }
    return Reconstruction(
        name=name,
        mesh=mesh,
        cameras=by_view,
        surface=surface,
        scale=cameras.scale,
        offset=cameras.offset,
        iteration=iteration,
        initial_poses=initial_poses,
        device=device,
    )
