"""`pmni integrate`: normal maps to ray distances."""

import argparse
import logging
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pmni import provenance
from pmni.cameras import pixel_grid
from pmni.capture.capture import Capture, load_capture
from pmni.config.base import settings_from_argument
from pmni.config.integration import IntegrateSettings
from pmni.errors import DivergenceError, InputError
from pmni.integration.bilateral import integrate
from pmni.integration.preview import write_preview
from pmni.io.atomic import atomic_file

LOGGER = logging.getLogger("integrate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pmni integrate`."""
    parser.add_argument("--capture", type=Path, required=True, help="folder of the capture")
    parser.add_argument("--settings", help="YAML file or inline JSON; see IntegrateSettings")
    parser.add_argument("--output", type=Path, required=True, help="folder for the distances")


def run(args: argparse.Namespace) -> None:
    """Integrate all views and write `ray_distance.npz` and `preview.png`."""
    settings = settings_from_argument(IntegrateSettings, args.settings)
    capture = load_capture(args.capture)
    inputs = {"capture": args.capture / "capture.npz"}
    with provenance.record("integrate", args.output / "provenance.json", settings, inputs):
        distances = ray_distances(capture, settings)
        with atomic_file(args.output / "ray_distance.npz") as temporary:
            np.savez_compressed(temporary, ray_distance=distances, views=np.array(capture.views))
        with atomic_file(args.output / "preview.png") as temporary:
            write_preview(temporary, distances, capture.intrinsics, capture.views)
    LOGGER.info("%s: %d views integrated", capture.name, len(distances))


def ray_distances(capture: Capture, settings: IntegrateSettings) -> Float[np.ndarray, "V H W"]:
    """Ray distances of all views, NaN outside the masks; the median of each view is 1."""
    if settings.method == "dataset":
        if capture.ray_distances is None:
            raise InputError(
                f"{capture.name}: the dataset has no ray distances; set integrate.method: bilateral"
            )
        distances = capture.ray_distances
    else:
        views = range(len(capture.views))
        distances = np.stack([integrate_view(capture, index, settings) for index in views])
    median = np.nanmedian(distances, axis=(1, 2), keepdims=True)
    return (distances / median).astype(np.float32)


def integrate_view(
    capture: Capture, index: int, settings: IntegrateSettings
) -> Float[np.ndarray, "H W"]:
    """Ray distances of one view, any scale. Raises DivergenceError naming the view."""
    mask, K = capture.masks[index], capture.intrinsics[index]
    try:
        depth = integrate(
            capture.normals[index], mask, K, settings.k, settings.iterations, settings.tolerance
        )
    except DivergenceError as error:
        raise DivergenceError(f"{capture.name}: view {capture.views[index]}: {error}") from None
    m = pixel_grid(*mask.shape) @ np.linalg.inv(K).T
    return depth * np.linalg.norm(m, axis=-1)
