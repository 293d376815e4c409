"""Kernels against their PyTorch reference, tiny-cuda-nn, and the limits of the machine."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.bench import Bench
from benchmarks.ceilings import Ceilings, Work, measure_ceilings
from benchmarks.records import Record
from benchmarks.surfaces import Bumpy, network
from benchmarks.timing import median_seconds
from pmni import kernels
from pmni.config.training import FieldSettings
from pmni.runtime.cuda_graphs import CapturedFunction
from pmni.sdf.closest_approach import closest_approach
from pmni.sdf.narrow_band import NarrowBandSDF, resample
from pmni.sdf.network import NeuralSDF
from pmni.sdf.sphere_tracing import box_interval, trace

PART, REFERENCE, FLOOR, CAPTURED = "kernels", "torch", "floor", "triton, graph-captured"
DISTANCE = 15.0
"""Distance of the rays' origins from the object, normalised units; about that of DiLiGenT-MV."""
SHELL_RAYS = 32
"""Number of sample points on each ray through the shell."""
DIFFERENCE_QUANTILE = 0.999
"""Quantile of the differences between two implementations that counts as the largest: by rounding,
a ray that grazes the surface may hit it elsewhere."""


def run(bench: Bench) -> Iterator[Record]:
    """Measure the limits of the machine, ray queries, and networks."""
    ceilings = measure_ceilings(bench)
    rate = {"bytes_per_second": ceilings.bytes_per_second, "mb": bench.sizes.copied_mb}
    yield Record(PART, "ceiling", "copy", ceilings.copy_seconds, "s", rate)
    rate = {"operations_per_second": ceilings.operations_per_second, "n": bench.sizes.matrix}
    yield Record(PART, "ceiling", "matrix product", ceilings.product_seconds, "s", rate)
    yield Record(PART, "ceiling", "one launch", ceilings.launch_seconds, "s")
    yield from _rays(bench, ceilings)
    generator = torch.Generator().manual_seed(0)
    random = (2 * torch.rand(bench.sizes.points, 3, generator=generator) - 1).to(bench.device)
    for name, settings in bench.sizes.fields.items():
        yield from _network(f"{name}, random points", settings, random, bench, ceilings)
        shell = shell_points(bench.sizes.points, generator).to(bench.device)
        yield from _network(f"{name}, shell", settings, shell, bench, ceilings)


def implementations(device: torch.device) -> list[str]:
    """Names of the implementations that run on a device, the PyTorch reference first."""
    on_gpu = device.type == "cuda"
    return [REFERENCE] + ["triton"] * (on_gpu and importlib.util.find_spec("triton") is not None)


@contextmanager
def running(implementation: str) -> Iterator[None]:
    """Context in which the named implementation runs."""
    wanted = REFERENCE if implementation == REFERENCE else "triton"
    with mock.patch.dict(os.environ, {kernels.BACKEND_VARIABLE: wanted}):
        yield


def _rays(bench: Bench, ceilings: Ceilings) -> Iterator[Record]:
    sizes, device = bench.sizes, bench.device
    surface = resample(Bumpy(), sizes.ray_cells, device, sweeps=4)
    rays = camera_rays(sizes.rays, device)
    entry = rays[2]

    def first_hit() -> Tensor:
        return trace(surface, *rays).distance - entry

    def least() -> Tensor:
        return closest_approach(surface, *rays, 2.5 * surface.grid.spacing)[1]

    parameters = {"rays": sizes.rays, "cells": sizes.ray_cells}
    floor = ceilings.floor(ray_work(surface, sizes.rays))
    calls: dict[str, Callable[[], Tensor]] = {"sphere tracing": first_hit, "least value": least}
    for name, call in calls.items():
        yield Record(PART, name, FLOOR, floor, "s", parameters)
        reference = None
        for variant in implementations(device):
            with running(variant):
                result = call()
                seconds = median_seconds(call, device, sizes.repeats)
            reference = result if reference is None else reference
            off = (
                None if variant == REFERENCE else difference(result, reference, DIFFERENCE_QUANTILE)
            )
            yield Record(PART, name, variant, seconds, "s", parameters, (REFERENCE, FLOOR), off)


def camera_rays(count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rays near the object: origins, directions, entry and exit distances of the box."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    targets = 0.45 * torch.randn(count, 3, generator=generator)
    origins = targets - DISTANCE * directions
    near, far = box_interval(origins, directions)
    meets = near < far
    far = torch.where(meets, far, near + 1e-3)
    return origins.to(device), directions.to(device), near.to(device), far.to(device)


def shell_points(count: int, generator: torch.Generator) -> Float[Tensor, "N 3"]:
    """Points as volume rendering samples them: on rays through a thin shell around a sphere."""
    rays = max(1, count // SHELL_RAYS)
    axis = torch.nn.functional.normalize(torch.randn(rays, 1, 3, generator=generator), dim=-1)
    radius = 0.75 + 0.025 * torch.linspace(-1, 1, SHELL_RAYS)[:, None]
    return (radius * axis).view(-1, 3)


def ray_work(surface: NarrowBandSDF, rays: int) -> Work:
    """Minimal work of a ray query: read each ray and the surface once, write one number a ray."""
    tensors = (surface.values, surface.background.values, surface.grid.block_numbers)
    return Work(rays * 9 * 4 + sum(tensor.nbytes for tensor in tensors), 0)


def _network(
    name: str, settings: FieldSettings, x: Tensor, bench: Bench, ceilings: Ceilings
) -> Iterator[Record]:
    sizes, device = bench.sizes, bench.device
    parameters = {"points": len(x), **settings.model_dump(mode="json", exclude={"backend"})}
    for what, work in network_work(settings, len(x)).items():
        floor = ceilings.floor(work)
        yield Record(PART, f"{name}: {what}", FLOOR, floor, "s", parameters)
    original = network(settings.model_copy(update={"backend": "torch"}), device)
    reference: dict[str, list[Tensor]] = {}
    for variant in implementations(device) + ["tiny-cuda-nn"] * has_tiny_cuda_nn(device):
        backend = "tinycudann" if variant == "tiny-cuda-nn" else "auto"
        with running(variant):
            model = NeuralSDF(settings.model_copy(update={"backend": backend}), 0).to(device)
            copy_parameters(model, original)
            outputs = results(model, x)
            reference = reference or outputs
            for what, (call, prepare) in calls(model, x).items():
                seconds = median_seconds(call, device, sizes.repeats, prepare)
                pairs = zip(outputs[what], reference[what], strict=True)
                off = None if variant == REFERENCE else max(difference(a, b) for a, b in pairs)
                full = f"{name}: {what}"
                yield Record(PART, full, variant, seconds, "s", parameters, (REFERENCE, FLOOR), off)
            if variant == "triton" and device.type == "cuda":
                for what, replay in captured_calls(model, x).items():
                    full, seconds = f"{name}: {what}", median_seconds(replay, device, sizes.repeats)
                    yield Record(PART, full, CAPTURED, seconds, "s", parameters, (REFERENCE, FLOOR))


def has_tiny_cuda_nn(device: torch.device) -> bool:
    """Whether tiny-cuda-nn is installed and the device is a GPU."""
    return device.type == "cuda" and importlib.util.find_spec("tinycudann") is not None


@torch.no_grad()
def copy_parameters(model: NeuralSDF, other: NeuralSDF) -> None:
    """Copy the parameters of `other` into `model`; all backends have the same ones in one order."""
    for target, source in zip(_parameters(model), _parameters(other), strict=True):
        target.copy_(source)


def _parameters(model: NeuralSDF) -> list[Tensor]:
    return [*model.encoding.parameters(), *model.layers.parameters()]


def loss_of(model: NeuralSDF, x: Tensor) -> Tensor:
    """A loss of values and gradients, like the eikonal term in training; clears old gradients."""
    for parameter in model.parameters():
        parameter.grad = None
    value, gradient = model.value_and_gradient(x)
    length = torch.linalg.vector_norm(gradient, dim=-1)
    return (length - 1).square().mean() + value.abs().mean()


Call = tuple[Callable[..., object], Callable[[], tuple[Any, ...]]]


def calls(model: NeuralSDF, x: Tensor) -> dict[str, Call]:
    """The timed functions by name, each with the function that prepares its arguments."""

    return {
        "values": (torch.no_grad()(model), lambda: (x,)),
        "with gradients": (model.value_and_gradient, lambda: (x,)),
        "backward": (torch.Tensor.backward, lambda: (loss_of(model, x),)),
    }


def captured_calls(model: NeuralSDF, x: Tensor) -> dict[str, Callable[[], object]]:
    """Values, and values with gradients, as CUDA graphs to be replayed."""
    replays: dict[str, Callable[[], object]] = {}
    for what in ("values", "with gradients"):
        call, prepare = calls(model, x)[what]
        captured = CapturedFunction(partial(call, *prepare()), x.device)
        replays[what] = partial(captured, None, None)
    return replays


def results(model: NeuralSDF, x: Tensor) -> dict[str, list[Tensor]]:
    """The tensors that each timed function computes, by its name."""
    value, gradient = model.value_and_gradient(x)
    loss_of(model, x).backward()
    by_parameters = [p.grad for p in _parameters(model) if p.grad is not None]
    return {
        "values": [value.detach()],
        "with gradients": [value.detach(), gradient.detach()],
        "backward": [part.clone() for part in by_parameters],
    }


def network_work(settings: FieldSettings, points: int) -> dict[str, Work]:
    """Minimal work of each timed function.

    Points are read and results written once; table entries are read once and, in the backward pass,
    written once. The layers' products double with each derivative.
    """
    inputs = 3 + settings.levels * settings.features
    layers = inputs * settings.width + settings.width**2 * (settings.layers - 1) + settings.width
    products = 2.0 * points * layers
    corners = 8 * settings.levels * points
    model = NeuralSDF(settings.model_copy(update={"backend": "torch"}), 0)
    entries = sum(parameter.numel() for parameter in model.encoding.parameters())
    table = 4 * min(entries, corners * settings.features)
    return {
        "values": Work(4 * 4 * points + table, products),
        "with gradients": Work(7 * 4 * points + table, 2 * products),
        "backward": Work(7 * 4 * points + table + 4 * entries, 4 * products),
    }


def difference(actual: Tensor, expected: Tensor, quantile: float = 1.0) -> float:
    """A quantile of the absolute differences, relative to the largest expected value.

    Values that are not finite in either tensor are left out.
    """
    both = torch.isfinite(actual) & torch.isfinite(expected)
    if not both.any():
        return 0.0
    errors = (actual - expected)[both].abs().double().sort().values
    most = float(expected[both].abs().max())
    return float(errors[max(0, round(quantile * len(errors)) - 1)]) / max(most, 1e-30)
