"""What pose initialisation looks at: all views at a small common resolution, of one size."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter
from torch import Tensor

from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.geometry.cameras import points_of_ray_distance
from pmni.registration.ring import OBJECT_RADIUS

POINTS = 500
"""Surface points of each view."""

WORKING_RADIUS = 50.0
"""Pixels: images are shrunk by the whole number that brings the object's radius closest to this."""

UNSEEN = 1000.0
"""Working pixels: the signed distance beyond the border of an image that cuts off the object. It is
neither inside, nor near enough outside to pull at anything."""

_MARGIN = 4  # working pixels around a view's mask
_SMOOTHING = 0.7  # working pixels: sigma of the normals' filter
_RIM = 1.5  # working pixels: no surface points nearer to the contour
_GRAZING = 0.3  # the least cosine for which a pixel counts as much area as it covers
_STEEPEST = 8.0  # depth change from pixel to pixel, in pixel widths, beyond which it is a jump
_CENTRE_DEPTH = 0.8  # quantile of the visible surface's depth at which the object's centre lies
_FEWEST_PIXELS = 60  # usable working pixels that a view must have


@dataclass(frozen=True)
class Views:
    """V views, each cut out around its mask and shrunk to h x w working pixels.

    Depths have the unit in which the object's silhouette has the radius `radius`; they are as
    integrated, each view's median at the same distance, so relative scales and the jumps inside a
    view are not to be trusted.
    """

    normals: Float[Tensor, "V h w 3"]
    """Unit, camera frame, lightly smoothed; outside the mask those of the nearest pixel inside."""
    depth: Float[Tensor, "V h w"]
    """z-depth; outside the mask that of the nearest pixel inside."""
    signed_distance: Float[Tensor, "V h w"]
    """Working pixels from the mask's contour, positive outside; UNSEEN where the object may go on
    beyond the image."""
    intrinsics: Float[Tensor, "V 3 3"]
    """Of the cut-out at the working resolution."""
    points: Float[Tensor, "V P 3"]
    """Points of the surface, camera frame, about uniform in area, in random order; none at the rim
    or at depth jumps."""
    point_normals: Float[Tensor, "V P 3"]
    centres: Float[Tensor, "V 3"]
    """A point near the object's centre in each camera's frame."""
    radius: float

    def __len__(self) -> int:
        return len(self.depth)

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.depth.device

    @cached_property
    def maps(self) -> Float[Tensor, "N 5"]:
        """Normal, depth and signed distance of every pixel of every view, one row a pixel."""
        images = [self.normals, self.depth[..., None], self.signed_distance[..., None]]
        return torch.cat(images, -1).reshape(-1, 5).contiguous()

    @cached_property
    def unseen(self) -> Bool[Tensor, "V h w"]:
        """Where `signed_distance` is UNSEEN."""
        return self.signed_distance == UNSEEN


@dataclass(frozen=True)
class _WorkingView:
    normals: Float[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]
    signed_distance: Float[np.ndarray, "h w"]
    K: Float[np.ndarray, "3 3"]
    points: Float[np.ndarray, "P 3"]
    point_normals: Float[np.ndarray, "P 3"]
    centre: Float[np.ndarray, "3"]


def make_views(
    capture: Capture,
    ray_distances: Float[np.ndarray, "V H W"],
    seed: int,
    device: torch.device,
) -> Views:
    """The capture's views, from its normals and masks and the integrated ray distances.

    `ray_distances` are NaN outside the masks (and where they are not known), of any scale a view.
    Every view draws its points from the same seed, so the views' order changes nothing. Raises
    InputError naming a view that has too little in its mask.
    """
    if len(capture.views) < 2:
        raise InputError(f"{capture.name}: poses cannot be found from fewer than two views")
    for view, mask, distances in zip(capture.views, capture.masks, ray_distances, strict=True):
        if (mask & np.isfinite(distances)).sum() < _FEWEST_PIXELS:
            raise _too_little(capture, view)
    radii = [_silhouette_radius(mask) for mask in capture.masks]
    factor = max(1, round(float(np.quantile(radii, 0.9)) / WORKING_RADIUS))
    focal = np.sqrt(capture.intrinsics[:, 0, 0] * capture.intrinsics[:, 1, 1])
    distance = OBJECT_RADIUS / float(np.quantile(np.array(radii) / focal, 0.9))
    windows = _windows(capture.masks, factor)
    frames = [np.ones(size, bool) for size in capture.image_sizes()]
    working = []
    for index, view in enumerate(capture.views):
        made = _working_view(
            _cut_out(capture.normals[index], windows[index], 0.0),
            _cut_out(capture.masks[index], windows[index], False),
            _cut_out(ray_distances[index], windows[index], np.nan),
            _cut_out(frames[index], windows[index], False),
            _shifted(capture.intrinsics[index], windows[index]),
            factor,
            distance,
            np.random.default_rng(seed),
        )
        if made is None:
            raise _too_little(capture, view)
        working.append(made)

    def stacked(name: str) -> Tensor:
        arrays = np.stack([getattr(view, name) for view in working])
        return torch.from_numpy(arrays.astype(np.float32)).to(device)

    return Views(
        normals=stacked("normals"),
        depth=stacked("depth"),
        signed_distance=stacked("signed_distance"),
        intrinsics=stacked("K"),
        points=stacked("points"),
        point_normals=stacked("point_normals"),
        centres=stacked("centre"),
        radius=OBJECT_RADIUS,
    )


def _too_little(capture: Capture, view: str) -> InputError:
    return InputError(
        f"{capture.name}: view {view}: too few pixels inside the mask with normals and depth to "
        "find its pose; correct the mask or leave the view out"
    )


def _silhouette_radius(mask: Bool[np.ndarray, "H W"]) -> float:
    """Pixels from the mask's centre to (nearly) its farthest pixel; specks do not count."""
    pixels = np.argwhere(mask)
    return float(np.quantile(np.linalg.norm(pixels - pixels.mean(0), axis=1), 0.995)) + 0.5


# ---------------------------------------------------------------------- cut-outs
def _windows(masks: Bool[np.ndarray, "V H W"], factor: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) around each mask, all of one size, a multiple of `factor`."""
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    height = max(bottom - top for top, bottom, _, _ in boxes)
    width = max(right - left for _, _, left, right in boxes)
    height, width = (factor * (-(-side // factor) + 2 * _MARGIN) for side in (height, width))
    return [
        (int(top + bottom - height) // 2, int(left + right - width) // 2, int(height), int(width))
        for top, bottom, left, right in boxes
    ]


def _cut_out(
    image: np.ndarray, window: tuple[int, int, int, int], fill: float | bool
) -> np.ndarray:
    """The window of an image, which may reach beyond it."""
    top, left, height, width = window
    result = np.full((height, width, *image.shape[2:]), fill, image.dtype)
    rows = slice(max(top, 0), min(top + height, image.shape[0]))
    columns = slice(max(left, 0), min(left + width, image.shape[1]))
    inside = (
        slice(rows.start - top, rows.stop - top),
        slice(columns.start - left, columns.stop - left),
    )
    result[inside] = image[rows, columns]
    return result


def _shifted(
    K: Float[np.ndarray, "3 3"], window: tuple[int, int, int, int]
) -> Float[np.ndarray, "3 3"]:
    shifted = K.copy()
    shifted[:2, 2] -= (window[1], window[0])
    return shifted


def _blocks(image: np.ndarray, factor: int) -> np.ndarray:
    """(h, w, factor^2, ...): the pixels of each block."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    blocks = image.reshape(height, factor, width, factor, *image.shape[2:]).swapaxes(1, 2)
    return blocks.reshape(height, width, factor * factor, *image.shape[2:])


# ---------------------------------------------------------------------- one view
def _working_view(
    normals: Float[np.ndarray, "H W 3"],
    mask: Bool[np.ndarray, "H W"],
    ray_distances: Float[np.ndarray, "H W"],
    frame: Bool[np.ndarray, "H W"],
    K: Float[np.ndarray, "3 3"],
    factor: int,
    distance: float,
    rng: np.random.Generator,
) -> _WorkingView | None:
    """A view at 1 / factor of its resolution; None if it has too few pixels for that.

    `frame` is where the cut-out is in the image.
    """
    cut_off = bool((mask & ~binary_erosion(frame)).any())
    shown = np.ix_(frame.any(1), frame.any(0)) if cut_off else np.s_[:, :]
    signed = np.full(mask.shape, UNSEEN)
    signed[shown] = _signed_distance(mask[shown])
    signed = _blocks(signed, factor).mean(2) / factor
    if cut_off:
        signed[~_blocks(frame, factor).all(2)] = UNSEEN
    inside = _blocks(mask, factor).mean(2) >= 0.5
    distances = _median(_blocks(np.where(mask, ray_distances, np.nan), factor))
    known = inside & np.isfinite(distances)
    if not known.any():
        return None
    small = np.diag([1 / factor, 1 / factor, 1.0]) @ K
    small[:2, 2] += 0.5 / factor - 0.5

    averaged = _blocks(normals * mask[..., None], factor).mean(2)
    smooth = np.stack([gaussian_filter(averaged[..., c], _SMOOTHING) for c in range(3)], -1)
    nearest = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    smooth = smooth[tuple(nearest)]
    smooth /= np.maximum(np.linalg.norm(smooth, axis=-1, keepdims=True), 1e-9)

    cloud = points_of_ray_distance(distances, small)
    cloud *= distance / np.median(cloud[known][:, 2])
    usable = known & (signed < -_RIM)
    usable &= ~_at_jump(np.where(known, cloud[..., 2], np.nan), distance / small[0, 0])
    if usable.sum() < _FEWEST_PIXELS:
        return None
    rays = cloud[usable] / np.linalg.norm(cloud[usable], axis=-1, keepdims=True)
    area = 1 / np.maximum(-(rays * smooth[usable]).sum(-1), _GRAZING)
    count = min(POINTS, len(area))
    chosen = rng.choice(len(area), count, replace=False, p=area / area.sum())
    chosen = np.resize(chosen, POINTS)
    x, y, z = cloud[known].T
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    return _WorkingView(
        normals=smooth,
        depth=cloud[..., 2][tuple(nearest)],
        signed_distance=signed,
        K=small,
        points=cloud[usable][chosen],
        point_normals=smooth[usable][chosen],
        centre=np.array([x.mean(), y.mean(), np.quantile(z, _CENTRE_DEPTH)]),
    )


def _signed_distance(mask: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    if mask.all():
        return np.full(mask.shape, -float(max(mask.shape)))
    outwards = distance_transform_edt(~mask) - distance_transform_edt(mask)
    return outwards - 0.5 * np.sign(outwards)


def _median(blocks: Float[np.ndarray, "h w n"]) -> Float[np.ndarray, "h w"]:
    """The lower median of the numbers in each block: never a mean across a jump. NaN if none."""
    ordered = np.sort(blocks, axis=2)  # NaN last
    middle = np.maximum(np.isfinite(ordered).sum(2) - 1, 0) // 2
    return np.take_along_axis(ordered, middle[..., None], 2)[..., 0]


def _at_jump(depth: Float[np.ndarray, "h w"], pixel: float) -> Bool[np.ndarray, "h w"]:
    """Where the depth differs from a neighbour's by more than any surface worth its points."""
    jump = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        steep = np.abs(np.diff(depth, axis=axis)) > _STEEPEST * pixel  # False next to NaN
        first, last = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        first[axis], last[axis] = (1, 0), (0, 1)
        jump |= np.pad(steep, first) | np.pad(steep, last)
    return jump
