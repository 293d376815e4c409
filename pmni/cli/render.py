"""`pmni render`: normals and ray distances of a checkpoint's surface in all views."""

import logging
from argparse import ArgumentParser, Namespace
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pmni.config.base import settings_from_argument
from pmni.config.meshing import RenderSettings
from pmni.data.capture import load_capture
from pmni.errors import InputError
from pmni.geometry.cameras import flip_yz
from pmni.io.atomic import atomic_folder
from pmni.io.images import write_normal_map
from pmni.io.poses import read_poses
from pmni.runtime.devices import acquire_device
from pmni.runtime.layout import CaptureFolder, StageFolder
from pmni.runtime.provenance import record
from pmni.sdf.rendering import Images, render_surface

log = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Options of the stage."""
    parser.add_argument("--capture", type=Path, required=True, help="folder made by prepare")
    parser.add_argument("--checkpoint", type=Path, required=True, help="iter_*.safetensors")
    parser.add_argument("--poses", type=Path, required=True, help="poses of the checkpoint, JSON")
    parser.add_argument("--settings", help="RenderSettings: a YAML file or inline YAML")
    parser.add_argument("--output", type=Path, required=True, help="folder for the renders")


def run(args: Namespace) -> None:
    """Run the stage. Views without a pose are left out."""
    from pmni.sdf.checkpoint import load_surface

    settings = settings_from_argument(RenderSettings, args.settings)
    capture = load_capture(args.capture, with_ground_truth=False)
    poses = read_poses(args.poses)
    views = [view for view in capture.views if view in poses.views]
    if not views:
        raise InputError(f"{args.poses}: has no pose of any view of {args.capture}")
    inputs = {
        "capture": CaptureFolder(args.capture).archive,
        "checkpoint": args.checkpoint,
        "poses": args.poses,
    }
    rows = [capture.views.index(view) for view in views]
    K, c2w = capture.intrinsics[rows], poses.select(views)
    shape = capture.masks.shape[1:]
    with ExitStack() as claim:
        device = claim.enter_context(acquire_device(settings.device))
        with (
            atomic_folder(args.output) as folder,
            record("render", StageFolder(folder).provenance, settings, inputs) as facts,
        ):
            surface = load_surface(args.checkpoint, device)
            images = render_surface(surface, K, c2w, shape, settings, device)
            claim.close()  # other jobs can compute while this one writes
            _write(folder, views, images, capture.scale)
            facts |= {"device": str(device), "views": len(views)}
    log.info("%d views of %d x %d pixels", len(views), *reversed(shape))


def _write(folder: Path, views: list[str], images: Images, scale: float) -> None:
    """Write the images of all views, and their ray distances in dataset units."""
    with ThreadPoolExecutor() as pool:
        writes = [
            pool.submit(_write_view, folder / view, normals)
            for view, normals in zip(views, flip_yz(images.normals), strict=True)
        ]
        np.savez_compressed(
            folder / "depth.npz",
            ray_distance=images.distance * np.float32(scale),
            views=np.array(views),
        )
        for write in writes:
            write.result()


def _write_view(path: Path, normals: Float[np.ndarray, "H W 3"]) -> None:
    """Write an EXR, and a PNG in the usual colours, (n + 1) / 2 as red, green and blue, with a
    transparent background."""
    import cv2

    write_normal_map(path.with_name(f"{path.name}.exr"), normals)
    hit = (normals != 0).any(-1, keepdims=True)
    image = np.concatenate([(normals[..., ::-1] + 1) / 2, hit], -1) * hit
    path.with_name(f"{path.name}.png").write_bytes(
        cv2.imencode(".png", np.rint(image * 255).astype(np.uint8))[1].tobytes()
    )
