"""Raw captures, as readers return them, and their assembly into checked captures."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from pmni.config.capture import NormalisationSettings, PrepareSettings
from pmni.data import validation
from pmni.data.capture import Capture
from pmni.data.normalisation import Normalisation, around_mesh, around_views
from pmni.errors import InputError
from pmni.geometry.mesh import Mesh

log = logging.getLogger("pmni.data")


@dataclass(frozen=True)
class Maps:
    """One map a view, each in the size of its file, and the files for messages."""

    files: tuple[Path, ...]
    maps: tuple[np.ndarray, ...]


def read_maps(
    files: Iterable[Path], views: Sequence[str], read: Callable[[Path], np.ndarray]
) -> Maps:
    """`read` each view's file; its InputErrors are made to name the view as well."""
    files, maps = tuple(files), []
    for path, view in zip(files, views, strict=True):
        try:
            maps.append(read(path))
        except InputError as error:
            raise InputError(f"{error} (view {view})") from None
    return Maps(files, tuple(maps))


@dataclass(frozen=True)
class RawCapture:
    """The contents of a dataset folder before validation: not padded, lengths as they are."""

    views: tuple[str, ...]
    normals: Maps
    """Camera frame (OpenCV axes), (H, W, 3)."""
    masks: Maps
    """Boolean, (H, W)."""
    intrinsics: Float[np.ndarray, "V 3 3"]
    intrinsics_sources: tuple[str, ...]
    """The file that each view's intrinsics come from."""
    camera_files: tuple[Path, ...]
    dataset_c2w: Float[np.ndarray, "V 4 4"] | None = None
    """Reference poses in the dataset's world."""
    normalisation: Normalisation | None = None
    """The dataset's own; None: computed from the mesh or the views, if there are poses."""
    ground_truth_normals: Maps | None = None
    ray_distances: Maps | None = None
    mesh_file: Path | None = None
    ground_truth_mesh: Mesh | None = None
    """Dataset units."""

    def all_files(self) -> Iterator[Path]:
        """Every file that was read."""
        for maps in (self.normals, self.masks, self.ground_truth_normals, self.ray_distances):
            if maps is not None:
                yield from maps.files
        yield from self.camera_files
        if self.mesh_file is not None:
            yield self.mesh_file


def assemble(raw: RawCapture, name: str, settings: PrepareSettings) -> Capture:
    """The validated capture; views of different sizes are padded.

    Raises InputError, one line naming file and view, for the first fault.
    """
    checks = settings.validation
    where = [
        f"{file}: view {view}" for file, view in zip(raw.normals.files, raw.views, strict=True)
    ]
    masks = list(raw.masks.maps)
    for index, view in enumerate(raw.views):
        validation.check_mask(masks[index], f"{raw.masks.files[index]}: view {view}")
        for maps in (raw.normals, raw.ground_truth_normals, raw.ray_distances):
            if maps is not None:
                validation.check_same_size(
                    maps.maps[index].shape[:2],
                    masks[index].shape,
                    f"{maps.files[index]}: view {view}",
                    str(raw.masks.files[index]),
                )
        validation.check_finite(raw.normals.maps[index], masks[index], where[index])
    validation.check_assignment(raw.normals.maps, masks, raw.views, where, checks)
    if raw.ground_truth_normals is not None:
        pairs = zip(raw.ground_truth_normals.files, raw.views, strict=True)
        sources = [f"{file}: view {view}" for file, view in pairs]
        truth = raw.ground_truth_normals.maps
        validation.check_assignment(truth, masks, raw.views, sources, checks)
    normals = []
    for index in range(len(raw.views)):
        unit, known = validation.unit_normals(
            raw.normals.maps[index], masks[index], where[index], checks
        )
        if known.sum() < masks[index].sum():
            missing = int(masks[index].sum() - known.sum())
            log.info("%s: %d pixels without a normal taken out of the mask", where[index], missing)
        masks[index] = known
        normals.append(unit)
    shapes = [mask.shape for mask in masks]
    validation.check_intrinsics(raw.intrinsics, shapes, raw.views, raw.intrinsics_sources, checks)
    normalisation = _normalisation(raw, masks, settings.normalisation)
    capture = Capture(
        name=name,
        views=raw.views,
        normals=pad(normals, 0.0),
        masks=pad(masks, False),
        intrinsics=raw.intrinsics,
        reference_c2w=None if raw.dataset_c2w is None else normalisation.cameras(raw.dataset_c2w),
        scale=normalisation.scale,
        offset=normalisation.offset,
        ground_truth_normals=_ground_truth_normals(raw, masks),
        ground_truth_mesh=raw.ground_truth_mesh,
        ray_distances=_ray_distances(raw, masks, settings.depth_init_scale),
        sizes=np.array(shapes) if len(set(shapes)) > 1 else None,
    )
    validation.check_facing(capture, where, checks)
    validation.check_contours(capture, str(raw.normals.files[0].parent), checks)
    validation.check_poses(capture, where, checks)
    validation.check_ground_truth(capture, where, checks)
    return capture


def pad(maps: Sequence[np.ndarray], fill: float | bool) -> np.ndarray:
    """Maps (H_i, W_i, ...) as one array (V, H, W, ...), filled at the right and bottom."""
    height = max(image.shape[0] for image in maps)
    width = max(image.shape[1] for image in maps)
    stack = np.full((len(maps), height, width, *maps[0].shape[2:]), fill, maps[0].dtype)
    for row, image in zip(stack, maps, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    return stack


def _normalisation(
    raw: RawCapture, masks: list[Bool[np.ndarray, "_ _"]], settings: NormalisationSettings
) -> Normalisation:
    """The dataset's own, else around the mesh, else around the masks; without poses, none."""
    if raw.normalisation is not None:
        return raw.normalisation
    if raw.dataset_c2w is None:
        return Normalisation(1.0, np.zeros(3))
    if raw.ground_truth_mesh is not None:
        return around_mesh(raw.ground_truth_mesh, settings.mesh_margin)
    source = str(raw.camera_files[-1])
    return around_views(
        raw.dataset_c2w, raw.intrinsics, masks, raw.views, source, settings.views_margin
    )


def _ground_truth_normals(
    raw: RawCapture, masks: Sequence[Bool[np.ndarray, "_ _"]]
) -> Float[np.ndarray, "V H W 3"] | None:
    """Unit ground-truth normals; zero where the dataset has none."""
    if raw.ground_truth_normals is None:
        return None
    unit_normals = []
    triples = zip(
        raw.ground_truth_normals.maps, masks, raw.ground_truth_normals.files, raw.views, strict=True
    )
    for normals, mask, file, view in triples:
        validation.check_finite(normals, mask, f"{file}: view {view}")
        unit_normals.append(validation.normalised(normals, mask))
    return pad(unit_normals, 0.0)


def _ray_distances(
    raw: RawCapture, masks: Sequence[Bool[np.ndarray, "_ _"]], scale: float
) -> Float[np.ndarray, "V H W"] | None:
    """Ray distances times `scale`, NaN outside the masks."""
    if raw.ray_distances is None:
        return None
    distances = []
    triples = zip(raw.ray_distances.maps, masks, raw.ray_distances.files, raw.views, strict=True)
    for distance, mask, file, view in triples:
        validation.check_distances(distance, mask, f"{file}: view {view}")
        distances.append(np.where(mask, distance * np.float32(scale), np.float32(np.nan)))
    return pad(distances, np.nan)
