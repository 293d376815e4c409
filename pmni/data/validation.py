"""Checks of captures: each fault becomes one line that names file and view.

The functions take `where`, the text that starts the message ("<file>: view <view>").
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter
from scipy.optimize import linear_sum_assignment

from pmni.config.capture import ValidationSettings
from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.geometry.cameras import invert_rigid, pixel_grid, project, ray_directions

log = logging.getLogger("pmni.data")

FILE_AXES = "camera-space files have x right, y up, z towards the camera"
"""Hint of messages on wrong axes."""


UNIT_TOLERANCE = 1e-5
"""Deviation of a normal's length from 1 that rounding explains."""


def validated(capture: Capture, settings: ValidationSettings | None = None) -> Capture:
    """The capture with unit normals, after all checks that do not need files.

    A few mask pixels without a normal are taken out of the masks. Raises InputError naming the
    object and the view of the first fault.
    """
    settings = settings or ValidationSettings()
    where = [f"{capture.name}: view {view}" for view in capture.views]
    shapes = [tuple(size) for size in capture.image_sizes().tolist()]
    masks, normals = capture.masks.copy(), capture.normals.astype(np.float32)
    for index, place in enumerate(where):
        check_mask(masks[index], place)
        check_finite(normals[index], masks[index], place)
        unit, masks[index] = unit_normals(normals[index], masks[index], place, settings)
        off = np.abs(np.linalg.norm(normals[index], axis=-1, keepdims=True) - 1) > UNIT_TOLERANCE
        normals[index] = np.where(off, unit, normals[index])  # unit normals stay bit for bit
    sources = (capture.name,) * len(where)
    check_intrinsics(capture.intrinsics, shapes, capture.views, sources, settings)
    capture = replace(capture, normals=normals, masks=masks)
    check_facing(capture, where, settings)
    check_contours(capture, capture.name, settings)
    check_poses(capture, where, settings)
    check_ground_truth(capture, where, settings)
    return capture


def check_mask(mask: Bool[np.ndarray, "H W"], where: str) -> None:
    """Raise InputError for a mask without a pixel."""
    if not mask.any():
        raise InputError(f"{where}: the mask is empty")


def check_same_size(
    size: tuple[int, ...], mask_size: tuple[int, ...], where: str, mask_file: str
) -> None:
    """Raise InputError unless an image has the (height, width) of its mask."""
    if size != mask_size:
        ours, theirs = (f"{width} x {height}" for height, width in (size, mask_size))
        raise InputError(f"{where}: is {ours} pixels, but its mask {mask_file} is {theirs}")


def check_finite(
    normals: Float[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"], where: str
) -> None:
    """Raise InputError for NaN or infinity inside the mask."""
    broken = ~np.isfinite(normals).all(-1) & mask
    if broken.any():
        row, column = np.argwhere(broken)[0]
        raise InputError(
            f"{where}: {broken.sum()} normals inside the mask are NaN or infinite, "
            f"the first at row {row}, column {column}"
        )


def check_distances(
    distances: Float[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"], where: str
) -> None:
    """Raise InputError unless ray distances are positive and finite inside the mask."""
    broken = mask & ~(np.isfinite(distances) & (distances > 0))
    if broken.any():
        raise InputError(
            f"{where}: {broken.sum()} mask pixels have no positive finite ray distance; "
            f"repair the file, or remove the folder to integrate the normals instead"
        )


def holds_normal(normals: Float[np.ndarray, "H W 3"]) -> Bool[np.ndarray, "H W"]:
    """Pixels with a vector of about unit length (background vectors are 0, or -1 or 1 in each
    component)."""
    length = np.linalg.norm(normals, axis=-1)
    return (length > 0.5) & (length < 1.5)


def check_assignment(
    normals: Sequence[Float[np.ndarray, "_ _ 3"]],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    views: Sequence[str],
    where: Sequence[str],
    settings: ValidationSettings,
) -> None:
    """Raise InputError if a view's normals fit another view's mask (swapped files).

    Pixels with a normal are compared with the masks by intersection over union; normal maps that
    extend beyond the masks are not compared. Views are reassigned as a permutation, so that masks
    that are all a little large or small do not matter.
    """
    for shape in {mask.shape for mask in masks}:
        step = max(1, int(np.sqrt(shape[0] * shape[1] / 1e5)))
        group = [index for index, mask in enumerate(masks) if mask.shape == shape]
        inside = np.stack([masks[index][::step, ::step].ravel() for index in group])
        present = np.stack(
            [holds_normal(normals[index][::step, ::step]).ravel() for index in group]
        )
        outside = (present & ~inside).sum(1)
        if (outside > settings.max_normals_outside * (~inside).sum(1)).any():
            continue
        common = present.astype(np.float32) @ inside.T.astype(np.float32)
        overlap = common / (present.sum(1)[:, None] + inside.sum(1)[None, :] - common)
        if swapped := _swapped(overlap, settings):
            worst, fitting = swapped
            here, other = group[worst], group[fitting]
            raise InputError(
                f"{where[here]}: the normals fit the mask of view {views[other]} "
                f"({overlap[worst, fitting]:.1%} overlap) better than their own "
                f"({overlap[worst, worst]:.1%}); are files of these views swapped?"
            )


def _swapped(fit: Float[np.ndarray, "V V"], settings: ValidationSettings) -> tuple[int, int] | None:
    """The (row, column) that most clearly belong together although they are not the same view.

    `fit[i, j]` (1 is best) says how well data i goes with view j. Views are reassigned as a
    permutation; it counts when it fits better by more than the usual misfit.
    """
    rows = np.arange(len(fit))
    best = linear_sum_assignment(-fit)[1]
    gain = fit[rows, best] - np.diagonal(fit)
    worst = int(gain.argmax())
    misfit = settings.swap_misfit * (1 - np.median(fit[rows, best]))
    if gain[worst] <= settings.min_swap_gain + misfit:
        return None
    return worst, int(best[worst])


def normalised(
    normals: Float[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W 3"]:
    """Unit normals inside the mask; zero outside it and where the length is zero."""
    inside = np.where(mask[..., None], normals, 0)
    length = np.linalg.norm(inside, axis=-1, keepdims=True)
    return (inside / np.where(length > 1e-3, length, np.inf)).astype(np.float32)


def unit_normals(
    normals: Float[np.ndarray, "H W 3"],
    mask: Bool[np.ndarray, "H W"],
    where: str,
    settings: ValidationSettings,
) -> tuple[Float[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    """Unit normals, and the mask without the few pixels that have none.

    Raises InputError when more are missing, or when the lengths are so far from 1 that the file
    must be encoded in another way.
    """
    unit = normalised(normals, mask)
    known = mask & unit.any(-1)
    missing = 1 - known.sum() / mask.sum()
    if missing > settings.max_missing_normals:
        raise InputError(
            f"{where}: {missing:.1%} of the mask has normals of length zero; do normals and mask "
            f"belong to the same view?"
        )
    length = np.linalg.norm(normals[known], axis=-1)
    wrong = np.mean(np.abs(length - 1) > settings.max_length_error)
    if wrong > settings.max_wrong_lengths:
        low, high = np.quantile(length, [0.05, 0.95])
        raise InputError(
            f"{where}: the normals are not of unit length (most are {low:.2f} to {high:.2f} long); "
            f"are they encoded in another way?"
        )
    return unit, known


def check_intrinsics(
    intrinsics: Float[np.ndarray, "V 3 3"],
    shapes: Sequence[tuple[int, ...]],
    views: Sequence[str],
    sources: Sequence[str],
    settings: ValidationSettings,
) -> None:
    """Raise InputError unless each K is an invertible pinhole matrix that fits its image."""
    for K, shape, view, source in zip(intrinsics, shapes, views, sources, strict=True):
        where = f"{source}: view {view}"
        if not np.isfinite(K).all() or np.abs(K[2] - [0, 0, 1]).max() > 1e-6 or K[1, 0] != 0:
            raise InputError(f"{where}: K must be finite, upper triangular, with last row 0 0 1")
        if K[0, 0] <= 0 or K[1, 1] <= 0:
            raise InputError(
                f"{where}: K needs positive focal lengths, not {K[0, 0]:g} and {K[1, 1]:g}"
            )
        if abs(K[0, 1]) > settings.max_skew * K[0, 0]:
            raise InputError(f"{where}: K has a skew of {K[0, 1]:.4g}, which no camera has")
        height, width = shape
        if not (-width < K[0, 2] < 2 * width and -height < K[1, 2] < 2 * height):
            raise InputError(
                f"{where}: the principal point ({K[0, 2]:.1f}, {K[1, 2]:.1f}) is far outside the "
                f"{width} x {height} image; K must be in pixels of these images"
            )
    aspect = intrinsics[:, 0, 0] / intrinsics[:, 1, 1]
    worst = int(np.abs(aspect / np.median(aspect) - 1).argmax())
    if abs(aspect[worst] / np.median(aspect) - 1) > settings.max_aspect_deviation:
        raise InputError(
            f"{sources[worst]}: view {views[worst]}: fx / fy is {aspect[worst]:.3f}, in the other "
            f"views {np.median(aspect):.3f}: not the camera of the others, or not a rotation"
        )


def view_rays(capture: Capture, index: int) -> Float[np.ndarray, "N 3"]:
    """Unit viewing directions of one view's mask pixels, camera frame."""
    mask = capture.masks[index]
    pixels = pixel_grid(*mask.shape)[mask]
    return ray_directions(pixels, np.linalg.inv(capture.intrinsics[index]))


def check_facing(capture: Capture, where: Sequence[str], settings: ValidationSettings) -> None:
    """Raise InputError if many normals of a view point away from its camera."""
    for index, file in enumerate(where):
        normals = capture.normals[index][capture.masks[index]]
        away = np.mean((normals * view_rays(capture, index)).sum(-1) > 0)
        if away > settings.max_facing_away:
            raise InputError(
                f"{file}: {away:.0%} of the normals point away from the camera: the axes look "
                f"wrong ({FILE_AXES}), or the file belongs to another view"
            )


def contour_correlation(capture: Capture) -> Float[np.ndarray, "2 2"]:
    """Correlation of normals at the contours with the outward direction, over all views.

    On an occluding contour the normal's image part points out of the silhouette, so the matrix
    [[corr(out_x, n_x), corr(out_x, n_y)], [corr(out_y, n_x), corr(out_y, n_y)]] is near the
    identity for right axes, with -1 for a flipped axis and ones off the diagonal for swapped ones.
    """
    products, out_power, normal_power = np.zeros((2, 2)), np.zeros(2), np.zeros(2)
    for index, (height, width) in enumerate(capture.image_sizes()):
        mask, normals = (
            capture.masks[index, :height, :width],
            capture.normals[index, :height, :width],
        )
        edge = mask & ~binary_erosion(mask, border_value=1)
        uphill = np.stack(np.gradient(gaussian_filter(mask.astype(np.float32), 1.5))[::-1], -1)
        out = -uphill[edge].astype(np.float64)
        out /= np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-9)
        in_image = normals[edge][:, :2].astype(np.float64)
        products += out.T @ in_image
        out_power += (out**2).sum(0)
        normal_power += (in_image**2).sum(0)
    return products / np.sqrt(np.maximum(np.outer(out_power, normal_power), 1e-12))


def check_contours(capture: Capture, source: str, settings: ValidationSettings) -> None:
    """Raise InputError for flipped or swapped axes of the normals (`contour_correlation`)."""
    correlation = contour_correlation(capture)
    for axis, name in enumerate("xy"):
        if correlation[axis, axis] < -settings.max_flipped_correlation:
            raise InputError(
                f"{source}: all views: at the objects' outlines the normals point inwards along "
                f"{name}: the {name} axis looks flipped ({FILE_AXES})"
            )
    crossed = np.abs([correlation[0, 1], correlation[1, 0]])
    threshold = settings.min_swapped_correlation
    if crossed.min() > threshold and crossed.min() > np.abs(np.diagonal(correlation)).max():
        raise InputError(
            f"{source}: all views: the x and y axes of the normals look swapped ({FILE_AXES})"
        )


def check_poses(capture: Capture, where: Sequence[str], settings: ValidationSettings) -> None:
    """Raise InputError unless each camera looks at the unit sphere of the normalised world."""
    if capture.reference_c2w is None:
        return
    w2c = invert_rigid(capture.reference_c2w)
    for index, file in enumerate(where):
        centre = w2c[index, :3, 3]
        if centre[2] <= 1:
            raise InputError(
                f"{file}: its pose puts the object around or behind the camera: expected are "
                f"camera-to-world poses with OpenCV axes (x right, y down, z forward)"
            )
        along = view_rays(capture, index) @ centre
        outside = np.mean(centre @ centre - along**2 > 1)
        if outside > settings.max_outside_sphere:
            raise InputError(
                f"{file}: {outside:.0%} of the mask's rays miss the unit sphere of the normalised "
                f"world: pose, intrinsics or normalisation do not belong to this view"
            )
        if outside > settings.warn_outside_sphere:
            log.warning("%s: %.1f %% of the mask is outside the unit sphere", file, 100 * outside)


def check_ground_truth(
    capture: Capture, where: Sequence[str], settings: ValidationSettings
) -> None:
    """Raise InputError if ground-truth normals or the mesh belong to other views."""
    if capture.ground_truth_normals is not None:
        cosine = (capture.normals * capture.ground_truth_normals).sum(-1)
        for index, file in enumerate(where):
            known = capture.ground_truth_normals[index].any(-1)
            angle = np.rad2deg(np.arccos(np.clip(cosine[index][known], -1, 1)))
            if known.any() and angle.mean() > settings.max_ground_truth_angle:
                raise InputError(
                    f"{file}: the normals are {angle.mean():.0f} degrees off the ground truth on "
                    f"average: they are not of the same view, or in other axes"
                )
    if capture.reference_c2w is None or capture.ground_truth_mesh is None:
        return
    fit = _mesh_fit(capture)
    for index, file in enumerate(where):
        if fit[index, index] < settings.min_mesh_inside:
            raise InputError(
                f"{file}: only {fit[index, index]:.0%} of the ground-truth mesh projects into its "
                f"mask: pose, mask and mesh do not belong together"
            )
    if swapped := _swapped(fit, settings):
        camera, mask = swapped
        raise InputError(
            f"{where[mask]}: the ground-truth mesh, seen by the camera of view "
            f"{capture.views[camera]}, fits its mask better ({fit[camera, mask]:.1%} inside) than "
            f"that view's own ({fit[camera, camera]:.1%}); are views swapped?"
        )


def _mesh_fit(capture: Capture) -> Float[np.ndarray, "V V"]:
    """Fraction of the mesh's vertices that camera i projects into (or beside) mask j."""
    assert capture.reference_c2w is not None
    assert capture.ground_truth_mesh is not None
    vertices = capture.ground_truth_mesh.vertices
    points = capture.to_normalised(vertices[:: max(1, len(vertices) // 10000)])
    masks = np.stack([binary_dilation(mask, iterations=2) for mask in capture.masks])
    _, height, width = masks.shape
    fit = np.zeros((len(masks), len(masks)))
    for index, w2c in enumerate(invert_rigid(capture.reference_c2w)):
        local = points @ w2c[:3, :3].T + w2c[:3, 3]
        pixels, _ = project(local, capture.intrinsics[index])
        column, row = np.rint(pixels).astype(int).T
        seen = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        if seen.any():
            fit[index] = masks[:, row[seen], column[seen]].mean(1)
    return fit
