"""`pmni integrate`: normal maps to ray distances."""

import argparse
import logging
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from pmni.config.base import settings_from_argument
from pmni.config.integration import IntegrateSettings
from pmni.data.capture import Capture, load_capture
from pmni.errors import DivergenceError, InputError
from pmni.integration.bilateral import Integrated, integrate
from pmni.integration.perspective import ray_distance_of_depth
from pmni.integration.preview import write_preview
from pmni.integration.shrinking import enlarged, shrunk
from pmni.io.atomic import atomic_file
from pmni.runtime import provenance
from pmni.runtime.layout import CaptureFolder, IntegrationFolder

LOGGER = logging.getLogger("integrate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pmni integrate`."""
    parser.add_argument("--capture", type=Path, required=True, help="folder of the capture")
    parser.add_argument("--settings", help="YAML file or inline JSON; see IntegrateSettings")
    parser.add_argument("--output", type=Path, required=True, help="folder for the distances")
    parser.add_argument("--threads", type=int, default=0, help="views at a time; 0 for all CPUs")


def run(args: argparse.Namespace) -> None:
    """Write `ray_distance.npz` and `preview.png` of all views.

    `ray_distance` is float32 (V, H, W), NaN outside the masks, and each view's median is 1: an
    integrated surface has no scale.
    """
    settings = settings_from_argument(IntegrateSettings, args.settings)
    capture = load_capture(args.capture, with_ground_truth=False)
    inputs = {"capture": CaptureFolder(args.capture).archive}
    output = IntegrationFolder(args.output)
    with provenance.record("integrate", output.provenance, settings, inputs) as known:
        if settings.method == "dataset":
            distances = dataset_distances(capture)
        else:
            distances, iterations = integrated_distances(capture, settings, args.threads)
            known["iterations"] = iterations
        distances = (distances / np.nanmedian(distances, axis=(1, 2), keepdims=True)).astype("f4")
        with atomic_file(output.ray_distances) as temporary:
            np.savez_compressed(temporary, ray_distance=distances, views=np.array(capture.views))
        with atomic_file(output.preview) as temporary:
            write_preview(temporary, distances, capture.intrinsics, capture.views)
    LOGGER.info("%s: ray distances of %d views", capture.name, len(distances))


def dataset_distances(capture: Capture) -> Float[np.ndarray, "V H W"]:
    """The ray distances that came with the capture, positive or NaN.

    Raises InputError when none did, or none for a view.
    """
    if capture.ray_distances is None:
        raise InputError(
            f"{capture.name}: the dataset has no ray distances; set integrate.method: bilateral"
        )
    there = capture.masks & (capture.ray_distances > 0) & np.isfinite(capture.ray_distances)
    for view, any_there in zip(capture.views, there.any(axis=(1, 2)), strict=True):
        if not any_there:
            raise InputError(
                f"{capture.name}: view {view}: the dataset has no ray distance inside the mask; "
                "set integrate.method: bilateral"
            )
    return np.where(there, capture.ray_distances, np.nan)


def integrated_distances(
    capture: Capture, settings: IntegrateSettings, threads: int
) -> tuple[Float[np.ndarray, "V H W"], dict[str, int]]:
    """Ray distances of all views, each of any scale, and the iterations that they took.

    Views are integrated in processes: the solver's steps are so short that threads would spend more
    time waiting for each other than on them.
    """
    for view, mask in zip(capture.views, capture.masks, strict=True):
        if not mask.any():
            raise InputError(
                f"{capture.name}: view {view}: the mask is empty; "
                "leave the view out or correct its mask"
            )
    views = [_single(capture, index) for index in range(len(capture.views))]
    work = partial(integrated_view, settings=settings)
    workers = min(threads if threads > 0 else (os.cpu_count() or 1), len(views))
    if workers == 1:
        results = [work(view) for view in views]
    else:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            results = list(pool.map(work, views))
    for view, (_, result) in zip(capture.views, results, strict=True):
        if settings.k > 0 and result.change > settings.tolerance:
            LOGGER.warning(
                "%s: view %s: after %d iterations the depth still changes by %.1e of its relief",
                capture.name, view, result.iterations, result.change,
            )  # fmt: skip
    distances, integrated = zip(*results, strict=True)
    iterations = [result.iterations for result in integrated]
    return np.stack(distances), dict(zip(capture.views, iterations, strict=True))


def _single(capture: Capture, index: int) -> Capture:
    """One view, and what its integration needs."""
    return Capture(
        capture.normals[index : index + 1],
        capture.masks[index : index + 1],
        capture.intrinsics[index : index + 1],
        capture.views[index : index + 1],
        capture.name,
    )


def integrated_view(
    view: Capture, settings: IntegrateSettings
) -> tuple[Float[np.ndarray, "H W"], Integrated]:
    """The ray distances of a capture of one view, and how the depth of the shrunk one came about.

    Raises DivergenceError naming the view.
    """
    small = shrunk(view, settings.most_pixels)
    try:
        # The products of matrices in a factorisation are small: threads only make them slower.
        with threadpool_limits(1, "blas"):
            found = integrate(
                small.normals[0],
                small.masks[0],
                small.intrinsics[0],
                settings.k,
                settings.iterations,
                settings.tolerance,
            )
    except DivergenceError as error:
        raise DivergenceError(f"{view.name}: view {view.views[0]}: {error}") from None
    depth = enlarged(found.depth, small, view)
    return ray_distance_of_depth(depth, view.intrinsics[0]), found
