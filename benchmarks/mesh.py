"""Meshing by the project's marching cubes and by a library's; rendering of all normal maps."""

import importlib.util
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.bench import Bench
from benchmarks.kernels import (
    DIFFERENCE_QUANTILE,
    DISTANCE,
    REFERENCE,
    difference,
    implementations,
    running,
)
from benchmarks.records import Record
from benchmarks.surfaces import Bumpy, network
from benchmarks.timing import PeakMemory, median_seconds
from pmni.config.extensions import EXTRACTORS
from pmni.config.meshing import MeshSettings, RenderSettings
from pmni.geometry.cameras import turntable
from pmni.geometry.mesh import signed_volume
from pmni.meshing.adaptive_sampling import sample_near_surface
from pmni.meshing.extract import extract_zero_level
from pmni.meshing.grid_surfaces import evaluate_at_nodes
from pmni.meshing.node_cache import Evaluate
from pmni.sdf.baking import bake
from pmni.sdf.narrow_band import resample
from pmni.sdf.rendering import Images, render_views
from pmni.sdf.sdf import SDF
from pmni.synthetic.camera_rig import intrinsics

PART, OWN, LIBRARY = "mesh", "marching_cubes", "pymcubes"
REPEATS = 5
FEW_VIEWS = 2
"""Number of views that kernels and the slow PyTorch reference both render."""


def run(bench: Bench) -> Iterator[Record]:
    """Mesh an analytic surface and a network at each resolution, and a grid at its own; render."""
    sizes, device = bench.sizes, bench.device
    name, field = next(iter(sizes.fields.items()))
    net = network(field, device).eval()
    for cells in sizes.mesh_cells:
        yield from _meshed(f"formula, {cells} cells", Bumpy(), cells, bench)
        yield from _meshed(f"network {name}, {cells} cells", net, cells, bench)
    grid = resample(Bumpy(), sizes.ray_cells, device, sweeps=4)
    yield from _meshed(
        f"grid, {sizes.ray_cells} cells", evaluate_at_nodes(grid), sizes.ray_cells, bench
    )
    yield from _rendered("grid", grid, bench)
    yield from _rendered(f"network {name}", net, bench)


def _meshed(name: str, surface: Evaluate, cells: int, bench: Bench) -> Iterator[Record]:
    """Time of meshing, in all and by phase: search for crossed cells, then triangulation."""
    device = bench.device
    backends = [OWN]
    if cells <= bench.sizes.compared_cells and importlib.util.find_spec("mcubes") is not None:
        backends.append(LIBRARY)
    repeats, sampling = min(REPEATS, bench.sizes.repeats), MeshSettings().sampling
    seconds = median_seconds(
        partial(sample_near_surface, surface, cells, sampling, device), device, repeats
    )
    sampled = sample_near_surface(surface, cells, sampling, device)
    parameters: dict[str, Any] = {
        "values": sampled.evaluations,
        "crossed_cells": sampled.cells.shape[1],
    }
    yield Record(PART, f"{name}: cells", OWN, seconds, "s", parameters)
    grid = sampled.without_zeros()
    volume = None
    for backend in reversed(backends):  # the library first: it is the reference
        extractor = EXTRACTORS[backend]()
        seconds = median_seconds(partial(extractor, grid), device, repeats)
        yield Record(PART, f"{name}: triangles", backend, seconds, "s", {}, (LIBRARY,))
        settings = MeshSettings(extractor=backend)
        whole = partial(extract_zero_level, surface, cells, settings, device)
        with PeakMemory(device) as memory:
            extraction = whole()
        size = signed_volume(extraction.mesh)
        volume = volume or size
        parameters = {
            "vertices": len(extraction.mesh.vertices),
            "faces": len(extraction.mesh.faces),
            "components": extraction.components,
            "volume": size,
        }
        yield Record(
            PART, f"{name}: whole", backend, memory.megabytes, "MB", parameters, (LIBRARY,)
        )
        seconds = median_seconds(whole, device, repeats)
        off = None if backend == backends[-1] else abs(size - volume) / abs(volume)
        yield Record(PART, f"{name}: whole", backend, seconds, "s", parameters, (LIBRARY,), off)


def _rendered(name: str, surface: SDF, bench: Bench) -> Iterator[Record]:
    """Time of rendering all views; with kernels, also a few views by them and the reference."""
    variants = implementations(bench.device)
    yield from _images(f"render {name}", surface, bench.sizes.views, variants[-1:], bench)
    if len(variants) > 1:
        label = f"render {name}, {FEW_VIEWS} views"
        yield from _images(label, surface, FEW_VIEWS, variants, bench)


def _images(
    label: str, surface: SDF, views: int, variants: list[str], bench: Bench
) -> Iterator[Record]:
    """Time of rendering normals and distances of all pixels, with the surface's baking."""
    sizes, device = bench.sizes, bench.device
    c2w = turntable(2 * np.pi * np.arange(views) / views, 0.4, DISTANCE)
    K = np.stack([intrinsics(sizes.height, sizes.width)] * views)
    shape, pixel, settings = (sizes.height, sizes.width), DISTANCE / K[0, 0, 0], RenderSettings()
    chunk = settings.chunk
    parameters = {"views": views, "size": f"{sizes.width} x {sizes.height}", "chunk": chunk}

    def images() -> Images:
        baked = bake(surface, pixel, device, settings.min_cells, settings.max_cells)
        return render_views(baked, K, c2w, shape, chunk, device)

    reference = None
    for variant in variants:
        with running(variant):
            normals = torch.from_numpy(images().normals)
            reference = normals if reference is None else reference
            seconds = median_seconds(images, device, min(REPEATS, sizes.repeats))
        off = (
            None if variant == variants[0] else difference(normals, reference, DIFFERENCE_QUANTILE)
        )
        yield Record(PART, label, variant, seconds, "s", parameters, (REFERENCE,), off)
