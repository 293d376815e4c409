"""Captures at another resolution."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from pmni.data.capture import Capture
from pmni.data.validation import normalised
from pmni.errors import InputError


def resized(capture: Capture, factor: float) -> Capture:
    """The capture with `factor` times as many pixels along each side.

    Normals are averages over the pixels inside the mask (area interpolation when
    downsampling, bilinear when upsampling), made unit again; a pixel is inside when at least half
    of it is. With pixel centres at integers, u' = (u + 1/2) s - 1/2.
    Raises InputError when a view's mask vanishes.
    """
    if factor == 1:
        return capture
    height, width = capture.masks.shape[1:]
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    masks = np.stack([_resample(mask.astype(np.float32), size) >= 0.5 for mask in capture.masks])
    sizes = None
    if capture.sizes is not None:
        sizes = (capture.sizes * (np.array(size) / (height, width)) + 1e-6).astype(int)
        for mask, (rows, columns) in zip(masks, sizes, strict=True):
            mask[rows:] = mask[:, columns:] = False  # pixels that lie partly beyond the border
    for view, mask in zip(capture.views, masks, strict=True):
        if not mask.any():
            raise InputError(
                f"{capture.name}: view {view}: nothing is left of its mask at {factor:g} times "
                "the resolution; leave the view out or correct its mask"
            )
    vertical, horizontal = size[0] / height, size[1] / width
    to_new = np.array(
        [
            [horizontal, 0, horizontal / 2 - 0.5],
            [0, vertical, vertical / 2 - 0.5],
            [0, 0, 1],
        ]
    )
    ground_truth, distances = capture.ground_truth_normals, capture.ray_distances
    return replace(
        capture,
        normals=_resized_normals(capture.normals, masks),
        masks=masks,
        intrinsics=to_new @ capture.intrinsics,
        ground_truth_normals=(
            None if ground_truth is None else _resized_normals(ground_truth, masks)
        ),
        ray_distances=None if distances is None else _resized_distances(distances, masks),
        sizes=sizes,
    )


def _resample(image: Float[np.ndarray, "H W *C"], size: tuple[int, int]) -> np.ndarray:
    import cv2

    method = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=method)


def _resized_normals(
    normals: Float[np.ndarray, "V H W 3"], masks: Bool[np.ndarray, "V h w"]
) -> Float[np.ndarray, "V h w 3"]:
    """Averages of the normals, made unit; those outside the mask are zero and have no weight."""
    size = masks.shape[1:]
    return np.stack(
        [normalised(_resample(n, size), mask) for n, mask in zip(normals, masks, strict=True)]
    )


def _resized_distances(
    distances: Float[np.ndarray, "V H W"], masks: Bool[np.ndarray, "V h w"]
) -> Float[np.ndarray, "V h w"]:
    """Averages of the finite distances."""
    resized_views = []
    for distance, mask in zip(distances, masks, strict=True):
        finite = np.isfinite(distance)
        weight = _resample(finite.astype(np.float32), mask.shape)
        total = _resample(np.where(finite, distance, 0).astype(np.float32), mask.shape)
        resized_views.append(np.where(mask, total / np.where(mask, weight, 1), np.nan))
    return np.stack(resized_views).astype(np.float32)
