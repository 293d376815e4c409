"""Contact sheets: layers of small images, one tile a view."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from pmni.config.reporting import ReportSettings
from pmni.data.capture import Capture
from pmni.geometry.cameras import flip_yz
from pmni.io.images import read_normal_map
from pmni.reporting import images
from pmni.reporting.results_index import Run, Unavailable, load

Content = TypeVar("Content")
"""Data that a tile shows of a view."""

ERROR_SCALE_ENDS_DEG = (2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 180.0)
"""Ends that a colour scale of angular errors may have, degrees."""

ERROR_SCALE_PERCENTILE = 90
"""Percentage of each result's errors that the colour scale covers."""

DEFAULT_ERROR_SCALE_DEG = 30.0
"""End of the colour scale where no result has errors, degrees."""


@dataclass(frozen=True)
class Tile:
    """One view's image."""

    view: str
    uri: str
    note: str = ""
    """A number of this view, such as its mean error."""


@dataclass(frozen=True)
class Layer:
    """One kind of image of all views."""

    name: str
    tiles: list[Tile]
    kind: str = ""
    """`mask` is drawn in the colour of the page's text."""
    scale: tuple[str, str, str] | None = None
    """A colour scale: CSS gradient, its lower and its upper end."""


@dataclass(frozen=True)
class Gallery:
    """Layers that belong together; `problems` say which layers could not be made."""

    name: str
    aspect: float
    """Width by height of its images."""
    layers: list[Layer]
    problems: list[Unavailable] = field(default_factory=list)


def input_gallery(capture: Capture, ray_distances: Path, settings: ReportSettings) -> Gallery:
    """Normals, masks, integrated distances, and ground-truth normals where there are any."""
    crop = images.crop_to(capture.masks, settings.tile)
    masks = [crop.cut(mask) for mask in capture.masks]

    def layer(name: str, rgba_images: Iterable[np.ndarray], kind: str = "") -> Layer:
        def tile(pair: tuple[str, np.ndarray]) -> Tile:
            view, rgba = pair
            return Tile(view, images.data_uri(crop.shrink(rgba), settings.image_quality))

        return Layer(name, _each(tile, zip(capture.views, rgba_images, strict=True)), kind)

    def normal_layer(name: str, normals: Float[np.ndarray, "V H W 3"]) -> Layer:
        return layer(name, map(images.normal_image, map(crop.cut, normals), masks))

    layers = [
        normal_layer("Input normals", capture.normals),
        layer("Masks", map(images.mask_image, masks), "mask"),
    ]
    problems = []
    try:
        distances = load(ray_distances, read_distances)
        rgba_images = map(images.distance_image, map(crop.cut, distances))
        layers.append(layer("Integrated distance", rgba_images))
    except Unavailable as error:
        problems.append(error)
    if capture.ground_truth_normals is not None:
        layers.append(normal_layer("Ground-truth normals", capture.ground_truth_normals))
    return Gallery(f"{capture.name}: input", crop.aspect, layers, problems)


def read_distances(path: Path) -> Float[np.ndarray, "V H W"]:
    """Integrated ray distances, NaN outside the masks."""
    with np.load(path, allow_pickle=False) as archive:
        return archive["ray_distance"]


def result_gallery(
    run: Run, capture: Capture, error_scale: float | None, settings: ReportSettings
) -> Gallery:
    """Rendered normals and their errors, view by view.

    First those of the result, then those of the other candidates.
    """
    crop = images.crop_to(capture.masks, settings.tile)
    layers: list[Layer] = []
    problems: list[Unavailable] = []
    others = [step for step in run.candidates if step != run.result]
    for step in (run.result, *others):
        for make in (
            lambda step=step: _rendered_layer(run, step, capture, crop, settings),
            lambda step=step: _error_layer(run, step, capture, error_scale, crop, settings),
        ):
            try:
                layers.append(make())
            except Unavailable as error:
                problems.append(error)
    return Gallery(f"{run.entry.name}, {run.experiment.name}", crop.aspect, layers, problems)


def _suffix(run: Run, step: int) -> str:
    """Suffix of the names of layers of an iteration that is not the result."""
    return "" if step == run.result else f", {run.name_of(step)}"


def _rendered_layer(
    run: Run, step: int, capture: Capture, crop: images.Crop, settings: ReportSettings
) -> Layer:
    """Rendered normals of all views that have a pose."""
    folder = run.folder.renders(step)

    def tile(path: Path) -> Tile:
        normals = load(path, read_normal_map)
        if normals.shape[:2] != capture.masks.shape[1:]:
            raise Unavailable(path, "belongs to another capture (its size differs)")
        normals = crop.cut(normals)
        length = np.linalg.norm(normals, axis=-1)
        mask = np.isfinite(length) & (length > 0.5)
        ours = flip_yz(np.where(mask[..., None], normals, 0))
        rgba = crop.shrink(images.normal_image(ours, mask))
        return Tile(path.stem, images.data_uri(rgba, settings.image_quality))

    paths = [folder / f"{view}.exr" for view in capture.views]
    tiles = _each(tile, [path for path in paths if path.exists()])
    if not tiles:
        raise Unavailable(folder, "holds no rendered normals")
    return Layer(f"Rendered normals{_suffix(run, step)}", tiles)


def _error_layer(
    run: Run,
    step: int,
    capture: Capture,
    largest: float | None,
    crop: images.Crop,
    settings: ReportSettings,
) -> Layer:
    errors = load(run.folder.error_maps(step), read_normal_errors)
    if errors.shape != capture.masks.shape:
        raise Unavailable(
            run.folder.error_maps(step), "belongs to another capture (its size differs)"
        )
    top = largest or DEFAULT_ERROR_SCALE_DEG

    def tile(pair: tuple[str, Float[np.ndarray, "H W"]]) -> Tile:
        view, error = pair[0], crop.cut(pair[1])
        seen = np.isfinite(error)
        note = f"{error[seen].mean():.2f}°" if seen.any() else "–"
        rgba = crop.shrink(images.error_image(error, top))
        return Tile(view, images.data_uri(rgba, settings.image_quality), note)

    ramp = images.colour_ramp(images.ERROR_COLOURS)
    name = f"Error of the normals{_suffix(run, step)}"
    tiles = _each(tile, zip(capture.views, errors, strict=True))
    return Layer(name, tiles, scale=(ramp, "0°", f"≥ {top:g}°"))


def _each(tile: Callable[[Content], Tile], views: Iterable[Content]) -> list[Tile]:
    """The tiles of all views, several made at a time."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(tile, views))


def read_normal_errors(path: Path) -> Float[np.ndarray, "V H W"]:
    """Angular errors in degrees, NaN outside the masks."""
    with np.load(path, allow_pickle=False) as archive:
        return archive["normal_error_deg"].astype(np.float32)


def error_scale(errors: list[Float[np.ndarray, "V H W"]]) -> float | None:
    """The first of `ERROR_SCALE_ENDS_DEG` that most errors stay under; None without errors."""
    values = [error[np.isfinite(error)] for error in errors]
    values = [each for each in values if each.size]
    if not values:
        return None
    reach = max(float(np.percentile(each, ERROR_SCALE_PERCENTILE)) for each in values)
    ends = (end for end in ERROR_SCALE_ENDS_DEG if end >= reach)
    return next(ends, ERROR_SCALE_ENDS_DEG[-1])
