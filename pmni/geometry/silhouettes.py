"""Masks: distances from the contour, halfway between pixels inside and outside; extrapolation."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.ndimage import distance_transform_edt


def signed_distance(mask: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Signed distance of each pixel from the contour in pixels, positive outside.

    The border of the image is no contour: a mask without a pixel outside is everywhere as deep as
    its image is large. The mask must not be empty.
    """
    if mask.all():
        return np.full(mask.shape, -np.hypot(*mask.shape))
    outside, inside = distance_transform_edt(~mask), distance_transform_edt(mask)
    return np.where(mask, 0.5 - inside, outside - 0.5)


def nearest_across_contour(
    mask: Bool[np.ndarray, "H W"],
) -> tuple[Int[np.ndarray, "H W"], Int[np.ndarray, "H W"]]:
    """(row, column) of the pixel nearest to each pixel on the other side of the contour."""
    to_inside, to_outside = (
        distance_transform_edt(side, return_distances=False, return_indices=True)
        for side in (~mask, mask)
    )
    row, column = np.where(mask, to_outside, to_inside)
    return row, column


def extrapolate(
    image: Shaped[np.ndarray, "H W *C"], mask: Bool[np.ndarray, "H W"]
) -> Shaped[np.ndarray, "H W *C"]:
    """The image with each pixel outside the mask taken from the nearest one inside."""
    row, column = distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return image[row, column]


def signed_distances(
    masks: Bool[np.ndarray, "V H W"], sizes: Int[np.ndarray, "V 2"] | None = None
) -> Float[np.ndarray, "V H W"]:
    """`signed_distance` of each mask, float32.

    `sizes` are the images' own heights and widths, where they are padded; beyond them the distances
    go on as at the border.
    """
    sizes = np.broadcast_to(masks.shape[1:] if sizes is None else sizes, (len(masks), 2))
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(_padded_distance, masks, sizes)))


def _padded_distance(
    mask: Bool[np.ndarray, "H W"], size: Int[np.ndarray, "2"]
) -> Float[np.ndarray, "H W"]:
    height, width = size
    distance = signed_distance(mask[:height, :width]).astype(np.float32)
    padding = (mask.shape[0] - height, mask.shape[1] - width)
    return np.pad(distance, ((0, padding[0]), (0, padding[1])), "edge")
