"""Integration of a capture: normal maps to ray distances."""

import logging
import os
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from pmni.config.integration import IntegrateSettings
from pmni.data.capture import Capture
from pmni.errors import DivergenceError, InputError
from pmni.geometry.cameras import ray_distance_of_depth
from pmni.integration.bilateral import DepthSolution, integrate_depth
from pmni.integration.resample import downsample, upsample_depth
from pmni.runtime.workers import worker_pool

log = logging.getLogger("integrate")


@dataclass(frozen=True)
class Integration:
    """The ray distances of a capture."""

    ray_distances: Float[np.ndarray, "V H W"]
    """float32, NaN outside the masks; the median of each view is 1, since normals do not determine
    the scale."""
    iterations: dict[str, int] = field(default_factory=dict)
    """Re-weighting iterations of each view; empty for ray distances of the dataset."""


def integrate(
    capture: Capture, settings: IntegrateSettings | None = None, threads: int = 1
) -> Integration:
    """The ray distances of all views, `threads` views at a time (0: one a processor).

    Raises InputError for a view without mask or distances, DivergenceError for one whose
    integration fails; both name the view.
    """
    settings = settings or IntegrateSettings()
    iterations: dict[str, int] = {}
    if settings.method == "dataset":
        distances = _dataset_distances(capture)
    else:
        distances, iterations = _integrated_distances(capture, settings, threads)
    medians = np.nanmedian(distances, axis=(1, 2), keepdims=True)
    return Integration((distances / medians).astype(np.float32), iterations)


def _dataset_distances(capture: Capture) -> Float[np.ndarray, "V H W"]:
    """The ray distances that came with the capture, positive or NaN."""
    if capture.ray_distances is None:
        raise InputError(
            f"{capture.name}: the dataset has no ray distances; set integrate.method: bilateral"
        )
    valid = capture.masks & (capture.ray_distances > 0) & np.isfinite(capture.ray_distances)
    for view, any_valid in zip(capture.views, valid.any(axis=(1, 2)), strict=True):
        if not any_valid:
            raise InputError(
                f"{capture.name}: view {view}: the dataset has no ray distance inside the mask; "
                "set integrate.method: bilateral"
            )
    return np.where(valid, capture.ray_distances, np.nan)


def _integrated_distances(
    capture: Capture, settings: IntegrateSettings, threads: int
) -> tuple[Float[np.ndarray, "V H W"], dict[str, int]]:
    """Ray distances of all views, each of unknown scale, and their re-weighting iterations.

    Views are integrated in processes: the solver's steps are so short that threads would spend more
    time waiting for each other than on them.
    """
    for view, mask in zip(capture.views, capture.masks, strict=True):
        if not mask.any():
            raise InputError(
                f"{capture.name}: view {view}: the mask is empty; "
                "leave the view out or correct its mask"
            )
    views = [_single_view(capture, index) for index in range(len(capture.views))]
    work = partial(_integrate_view, settings=settings)
    workers = min(threads if threads > 0 else (os.cpu_count() or 1), len(views))
    if workers == 1:
        results = [work(view) for view in views]
    else:
        with worker_pool(workers) as pool:
            results = list(pool.map(work, views))
    distances, solutions = zip(*results, strict=True)
    for view, solution in zip(capture.views, solutions, strict=True):
        if settings.bilateral.sharpness > 0 and solution.change > settings.bilateral.tolerance:
            log.warning(
                "%s: view %s: after %d iterations the depth still changes by %.1e of its relief "
                "(more: integrate.bilateral.max_iterations)",
                capture.name, view, solution.iterations, solution.change,
            )  # fmt: skip
    iterations = [solution.iterations for solution in solutions]
    return np.stack(distances), dict(zip(capture.views, iterations, strict=True))


def _single_view(capture: Capture, index: int) -> Capture:
    """One view, with the arrays that integration needs."""
    return Capture(
        capture.normals[index : index + 1],
        capture.masks[index : index + 1],
        capture.intrinsics[index : index + 1],
        capture.views[index : index + 1],
        capture.name,
    )


def _integrate_view(
    view: Capture, settings: IntegrateSettings
) -> tuple[Float[np.ndarray, "H W"], DepthSolution]:
    """The ray distances of a capture of one view, and the solution at the lower resolution.

    Raises DivergenceError naming the view.
    """
    small = downsample(view, settings.downsampling.max_pixels)
    K = small.intrinsics[0]
    try:
        # The products of matrices in a factorisation are small: threads only make them slower.
        with threadpool_limits(1, "blas"):
            solution = integrate_depth(
                small.normals[0], small.masks[0], K, settings.bilateral, settings.solver
            )
    except DivergenceError as error:
        raise DivergenceError(f"{view.name}: view {view.views[0]}: {error}") from None
    depth = upsample_depth(solution.depth, small, view, settings.downsampling)
    return ray_distance_of_depth(depth, view.intrinsics[0]), solution
