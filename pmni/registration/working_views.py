"""The views as registration compares them: cut out, downsampled, with surface points."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import binary_erosion, gaussian_filter
from torch import Tensor

from pmni.config.registration import WorkingViewSettings
from pmni.data.views import Views
from pmni.errors import InputError
from pmni.geometry.cameras import points_of_ray_distance
from pmni.geometry.silhouettes import extrapolate, signed_distance
from pmni.registration.ideal_turntable import OBJECT_RADIUS

UNOBSERVED = 1000.0
"""Signed distance beyond the border of an image that cuts off the object, downsampled pixels: it is
neither inside the mask nor near enough outside to attract anything."""

SILHOUETTE_QUANTILE = 0.995
"""Quantile of the distances from a mask's centre that counts as its radius, so that specks do
not."""


@dataclass(frozen=True)
class WorkingViews:
    """V views, each cut out around its mask and downsampled to h x w pixels.

    Depths have the unit in which the object's silhouette has the radius `radius`. They are
    integrated, with each view's median at the same distance: relative scales between views, and
    depth discontinuities within one, are unreliable.
    """

    normals: Float[Tensor, "V h w 3"]
    """Unit, camera frame, lightly smoothed; outside the mask those of the nearest pixel inside."""
    depth: Float[Tensor, "V h w"]
    """z-depth; outside the mask that of the nearest pixel inside."""
    signed_distance: Float[Tensor, "V h w"]
    """Downsampled pixels from the mask's contour, positive outside; UNOBSERVED where the object may
    continue beyond the image."""
    intrinsics: Float[Tensor, "V 3 3"]
    """K of the cut-out, downsampled images."""
    points: Float[Tensor, "V P 3"]
    """Surface points, camera frame, about uniform in area, in random order; none near the contour
    or at depth discontinuities."""
    point_normals: Float[Tensor, "V P 3"]
    centres: Float[Tensor, "V 3"]
    """A point near the object's centre in each camera's frame."""
    radius: float
    """Radius of the object's silhouette."""

    def __len__(self) -> int:
        return len(self.depth)

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.depth.device

    @cached_property
    def maps(self) -> Float[Tensor, "N 5"]:
        """Normal, depth and signed distance of every pixel of every view, one row a pixel."""
        images = [self.normals, self.depth[..., None], self.signed_distance[..., None]]
        return torch.cat(images, -1).reshape(-1, 5).contiguous()

    @cached_property
    def unobserved(self) -> Bool[Tensor, "V h w"]:
        """Pixels beyond the border of an image that cuts off the object."""
        return self.signed_distance == UNOBSERVED


@dataclass(frozen=True)
class _WorkingView:
    """One view, as `WorkingViews`."""

    normals: Float[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]
    signed_distance: Float[np.ndarray, "h w"]
    K: Float[np.ndarray, "3 3"]
    points: Float[np.ndarray, "P 3"]
    point_normals: Float[np.ndarray, "P 3"]
    centre: Float[np.ndarray, "3"]


def make_working_views(
    views: Views, settings: WorkingViewSettings, seed: int, device: torch.device
) -> WorkingViews:
    """The working views of a capture, from its normals, masks and integrated ray distances.

    Ray distances are NaN outside the masks and where they are unknown, of any scale in each view.
    Every view draws its points from the same seed, so that the order of the views does not matter.
    Raises InputError naming a view with too few pixels in its mask.
    """
    assert views.ray_distances is not None
    if len(views) < 2:
        raise InputError(f"{views.object_name}: poses cannot be found from fewer than two views")
    normals, masks, distances = (
        images.cpu().numpy() for images in (views.normals, views.masks, views.ray_distances)
    )
    intrinsics = views.intrinsics.cpu().numpy()
    for name, mask, distance in zip(views.names, masks, distances, strict=True):
        if (mask & np.isfinite(distance)).sum() < settings.min_pixels:
            raise _too_few_pixels(views, name)
    radii = [_silhouette_radius(mask) for mask in masks]
    factor = max(1, round(float(np.quantile(radii, 0.9)) / settings.object_radius))
    focal = np.sqrt(intrinsics[:, 0, 0] * intrinsics[:, 1, 1])
    object_distance = OBJECT_RADIUS / float(np.quantile(np.array(radii) / focal, 0.9))
    windows = _windows(masks, factor, settings.margin)
    frames = [np.ones(tuple(size), bool) for size in views.sizes.tolist()]
    working = []
    for index, name in enumerate(views.names):
        view = _working_view(
            _cut_out(normals[index], windows[index], 0.0),
            _cut_out(masks[index], windows[index], False),
            _cut_out(distances[index], windows[index], np.nan),
            _cut_out(frames[index], windows[index], False),
            _shifted(intrinsics[index], windows[index]),
            factor,
            object_distance,
            settings,
            np.random.default_rng(seed),
        )
        if view is None:
            raise _too_few_pixels(views, name)
        working.append(view)

    def stacked(name: str) -> Tensor:
        arrays = np.stack([getattr(view, name) for view in working])
        return torch.from_numpy(arrays.astype(np.float32)).to(device)

    return WorkingViews(
        normals=stacked("normals"),
        depth=stacked("depth"),
        signed_distance=stacked("signed_distance"),
        intrinsics=stacked("K"),
        points=stacked("points"),
        point_normals=stacked("point_normals"),
        centres=stacked("centre"),
        radius=OBJECT_RADIUS,
    )


def _too_few_pixels(views: Views, name: str) -> InputError:
    return InputError(
        f"{views.object_name}: view {name}: too few pixels inside the mask with normals and depth "
        "to find its pose; correct the mask or leave the view out"
    )


def _silhouette_radius(mask: Bool[np.ndarray, "H W"]) -> float:
    """Pixels from the mask's centre to (nearly) its farthest pixel."""
    pixels = np.argwhere(mask)
    return (
        float(np.quantile(np.linalg.norm(pixels - pixels.mean(0), axis=1), SILHOUETTE_QUANTILE))
        + 0.5
    )


# ---------------------------------------------------------------------- cut-outs
Window = tuple[int, int, int, int]
"""Top, left, height and width of a part of an image, pixels."""


def _windows(masks: Bool[np.ndarray, "V H W"], factor: int, margin: int) -> list[Window]:
    """A window around each mask, all of one size, a multiple of `factor`."""
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    height = max(bottom - top for top, bottom, _, _ in boxes)
    width = max(right - left for _, _, left, right in boxes)
    height, width = (factor * (-(-side // factor) + 2 * margin) for side in (height, width))
    return [
        (int(top + bottom - height) // 2, int(left + right - width) // 2, int(height), int(width))
        for top, bottom, left, right in boxes
    ]


def _cut_out(image: np.ndarray, window: Window, fill: float | bool) -> np.ndarray:
    """The part of an image in a window, which may reach beyond it: there it is `fill`."""
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


def _shifted(K: Float[np.ndarray, "3 3"], window: Window) -> Float[np.ndarray, "3 3"]:
    """K of the part of an image in a window."""
    shifted = K.copy()
    shifted[:2, 2] -= (window[1], window[0])
    return shifted


def _blocks(image: np.ndarray, factor: int) -> np.ndarray:
    """The pixels of each block of factor x factor: (H, W, ...) -> (h, w, factor^2, ...)."""
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
    object_distance: float,
    settings: WorkingViewSettings,
    rng: np.random.Generator,
) -> _WorkingView | None:
    """A view at 1 / factor of its resolution; None if it has too few pixels for that.

    `frame` says which pixels of the cut-out lie in the image; `object_distance` is the depth that
    the visible surface gets in the median.
    """
    cut_off = bool((mask & ~binary_erosion(frame)).any())
    observed = np.ix_(frame.any(1), frame.any(0)) if cut_off else np.s_[:, :]
    signed = np.full(mask.shape, UNOBSERVED)
    signed[observed] = signed_distance(mask[observed])
    signed = _blocks(signed, factor).mean(2) / factor
    if cut_off:
        signed[~_blocks(frame, factor).all(2)] = UNOBSERVED
    inside = _blocks(mask, factor).mean(2) >= 0.5
    distances = _median(_blocks(np.where(mask, ray_distances, np.nan), factor))
    known = inside & np.isfinite(distances)
    if not known.any():
        return None
    small = np.diag([1 / factor, 1 / factor, 1.0]) @ K
    small[:2, 2] += 0.5 / factor - 0.5

    averaged = _blocks(normals * mask[..., None], factor).mean(2)
    smooth = np.stack([gaussian_filter(averaged[..., c], settings.smoothing) for c in range(3)], -1)
    smooth = extrapolate(smooth, inside)
    smooth /= np.maximum(np.linalg.norm(smooth, axis=-1, keepdims=True), 1e-9)

    cloud = points_of_ray_distance(distances, small)
    cloud *= object_distance / np.median(cloud[known][:, 2])
    usable = known & (signed < -settings.eroded_boundary)
    largest_step = settings.depth_discontinuity * object_distance / small[0, 0]
    usable &= ~_at_discontinuity(np.where(known, cloud[..., 2], np.nan), largest_step)
    if usable.sum() < settings.min_pixels:
        return None
    rays = cloud[usable] / np.linalg.norm(cloud[usable], axis=-1, keepdims=True)
    area = 1 / np.maximum(-(rays * smooth[usable]).sum(-1), settings.min_facing)
    count = min(settings.points, len(area))
    chosen = rng.choice(len(area), count, replace=False, p=area / area.sum())
    chosen = np.resize(chosen, settings.points)
    x, y, z = cloud[known].T
    return _WorkingView(
        normals=smooth,
        depth=extrapolate(cloud[..., 2], known),
        signed_distance=signed,
        K=small,
        points=cloud[usable][chosen],
        point_normals=smooth[usable][chosen],
        centre=np.array([x.mean(), y.mean(), np.quantile(z, settings.centre_depth_quantile)]),
    )


def _median(blocks: Float[np.ndarray, "h w n"]) -> Float[np.ndarray, "h w"]:
    """The lower median of the numbers in each block, never a mean across a depth discontinuity; NaN
    where a block has none."""
    ordered = np.sort(blocks, axis=2)  # NaN last
    middle = np.maximum(np.isfinite(ordered).sum(2) - 1, 0) // 2
    return np.take_along_axis(ordered, middle[..., None], 2)[..., 0]


def _at_discontinuity(
    depth: Float[np.ndarray, "h w"], largest_step: float
) -> Bool[np.ndarray, "h w"]:
    """Pixels whose depth differs from a neighbour's by more than `largest_step`."""
    discontinuity = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        steep = np.abs(np.diff(depth, axis=axis)) > largest_step  # False next to NaN
        first, last = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        first[axis], last[axis] = (1, 0), (0, 1)
        discontinuity |= np.pad(steep, first) | np.pad(steep, last)
    return discontinuity
