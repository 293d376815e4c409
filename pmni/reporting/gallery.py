"""Contact sheets: layers of small images, one tile a view."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pmni.capture.capture import Capture
from pmni.config.reporting import ReportSettings
from pmni.io.images import read_normal_map
from pmni.reporting import images
from pmni.reporting.sources import Run, Unavailable, load


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


def input_gallery(capture: Capture, integration: Path, settings: ReportSettings) -> Gallery:
    """What went in: normals, masks, true normals where known, and the integrated distances."""
    crop = images.crop_to(capture.masks, settings.tile)
    pairs = list(zip(capture.views, capture.normals, capture.masks, strict=True))

    def layer(name: str, pictures: list[np.ndarray], kind: str = "") -> Layer:
        tiles = [
            Tile(view, images.data_uri(crop(picture), settings.image_quality))
            for view, picture in zip(capture.views, pictures, strict=True)
        ]
        return Layer(name, tiles, kind)

    layers = [
        layer("Input normals", [images.normal_image(normals, mask) for _, normals, mask in pairs]),
        layer("Masks", [images.mask_image(mask) for _, _, mask in pairs], "mask"),
    ]
    problems = []
    try:
        distances = load(integration / "ray_distance.npz", read_distances)
        layers.append(layer("Integrated distance", [images.distance_image(d) for d in distances]))
    except Unavailable as error:
        problems.append(error)
    if capture.true_normals is not None:
        true = zip(capture.true_normals, capture.masks, strict=True)
        layers.append(layer("True normals", [images.normal_image(n, mask) for n, mask in true]))
    return Gallery(f"{capture.name}: what went in", crop.aspect, layers, problems)


def read_distances(path: Path) -> Float[np.ndarray, "V H W"]:
    """Integrated ray distances, NaN outside the masks."""
    with np.load(path, allow_pickle=False) as archive:
        return archive["ray_distance"]


def result_gallery(
    run: Run, capture: Capture, error_scale: float | None, settings: ReportSettings
) -> Gallery:
    """What came out: rendered normals and their errors, view by view.

    First of the result, then of what it was chosen from.
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
    """What tells the layers of an iteration from those of the result."""
    return "" if step == run.result else f", {run.name_of(step)}"


def _rendered_layer(
    run: Run, step: int, capture: Capture, crop: images.Crop, settings: ReportSettings
) -> Layer:
    """Rendered normals of all views that have a pose."""
    folder = run.render(step)
    tiles = []
    for view in capture.views:
        path = folder / f"{view}.exr"
        if not path.exists():
            continue
        normals = load(path, read_normal_map)
        if normals.shape[:2] != capture.masks.shape[1:]:
            raise Unavailable(path, "belongs to another capture (its size differs)")
        mask = np.isfinite(normals).all(-1) & (np.linalg.norm(normals, axis=-1) > 0.5)
        ours = np.where(mask[..., None], normals, 0) * np.array([1, -1, -1], np.float32)
        picture = crop(images.normal_image(ours, mask))
        tiles.append(Tile(view, images.data_uri(picture, settings.image_quality)))
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
    errors = load(run.errors(step), read_normal_errors)
    if errors.shape != capture.masks.shape:
        raise Unavailable(run.errors(step), "belongs to another capture (its size differs)")
    top = largest or 30.0
    tiles = []
    for view, error in zip(capture.views, errors, strict=True):
        seen = np.isfinite(error)
        note = f"{error[seen].mean():.2f}°" if seen.any() else "–"
        picture = images.error_image(error, top)
        tiles.append(Tile(view, images.data_uri(crop(picture), settings.image_quality), note))
    ramp = images.colour_ramp(images.ERROR_COLOURS)
    name = f"Error of the normals{_suffix(run, step)}"
    return Layer(name, tiles, scale=(ramp, "0°", f"≥ {top:g}°"))


def read_normal_errors(path: Path) -> Float[np.ndarray, "V H W"]:
    """Angular errors in degrees, NaN outside the masks."""
    with np.load(path, allow_pickle=False) as archive:
        return archive["normal_error_deg"].astype(np.float32)


def error_scale(errors: list[Float[np.ndarray, "V H W"]]) -> float | None:
    """A round end for a colour scale that 90 % of the errors stay under; None without errors."""
    values = [error[np.isfinite(error)] for error in errors]
    values = [each for each in values if each.size]
    if not values:
        return None
    reach = max(float(np.percentile(each, 90)) for each in values)
    nice = (2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0)
    return next((end for end in nice if end >= reach), 180.0)
