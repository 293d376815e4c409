"""A contact sheet of a capture's normal maps."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from pmni.data.capture import Capture
from pmni.geometry.cameras import flip_yz

TILE = 240
"""Longest side of a view on the sheet, pixels."""
GAP = 14
"""Space between views, pixels."""
CAPTION = 26
"""Height of a view's caption, pixels."""
TITLE = 64
"""Height of the sheet's title, pixels."""
DPI = 100
"""Resolution of the text, dots per inch."""


def normal_colours(
    normals: Float[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W 4"]:
    """RGBA of camera-frame normals, transparent outside the mask."""
    rgb = (flip_yz(normals) + 1) / 2
    return np.concatenate([rgb, mask[..., None]], -1).astype(np.float32)


def contact_sheet(capture: Capture) -> tuple[Float[np.ndarray, "H W 3"], list[tuple[float, float]]]:
    """The sheet without text, and the centre (x, y) of each view's caption."""
    rows, columns = _extent(capture.masks)
    factor = TILE / max(rows.stop - rows.start, columns.stop - columns.start)
    tiles = [
        _scaled(normal_colours(normals[rows, columns], mask[rows, columns]), factor)
        for normals, mask in zip(capture.normals, capture.masks, strict=True)
    ]
    height, width = tiles[0].shape[:2]
    # about 16 : 10 as a whole
    across = int(np.ceil(np.sqrt(1.6 * len(tiles) * (height + CAPTION) / (width + GAP))))
    across = max(1, min(across, len(tiles)), min(len(tiles), 560 // (width + GAP)))
    down = -(-len(tiles) // across)
    step_x, step_y = width + GAP, height + CAPTION + GAP
    sheet = np.ones((TITLE + down * step_y, GAP + across * step_x, 3), np.float32)
    captions = []
    for index, tile in enumerate(tiles):
        top = TITLE + index // across * step_y
        left = GAP + index % across * step_x
        area = sheet[top : top + height, left : left + width]
        area += tile[..., 3:] * (tile[..., :3] - area)
        captions.append((left + width / 2, top + height + CAPTION / 2))
    return sheet.astype(np.float32), captions


def write_preview(path: Path, capture: Capture) -> None:
    """Write the contact sheet, with the name of the object and of each view, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sheet, captions = contact_sheet(capture)
    height, width = sheet.shape[:2]
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.clip(sheet, 0, 1), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    _, image_height, image_width = capture.masks.shape
    axes.text(GAP, 26, capture.name, size=15, weight="bold", color="#1b1f24", va="center")
    axes.text(
        GAP,
        48,
        f"{len(capture.views)} views of {image_width} × {image_height}",
        size=9,
        color="#6a737d",
        va="center",
    )
    for view, (x, y) in zip(capture.views, captions, strict=True):
        axes.text(x, y, view, size=9, color="#6a737d", ha="center", va="center")
    figure.savefig(path, dpi=DPI, format="png")


def _extent(masks: Bool[np.ndarray, "V H W"], margin: int = 4) -> tuple[slice, slice]:
    """The part of the image that the object covers in any view."""
    slices = []
    for line in (masks.any((0, 2)), masks.any((0, 1))):
        inside = np.flatnonzero(line)
        slices.append(slice(max(0, inside[0] - margin), inside[-1] + 1 + margin))
    return slices[0], slices[1]


def _scaled(rgba: Float[np.ndarray, "H W 4"], factor: float) -> Float[np.ndarray, "h w 4"]:
    """Small images with whole-number pixels; large ones as area averages weighted by opacity."""
    import cv2

    height, width = rgba.shape[:2]
    if factor >= 1:
        return rgba.repeat(int(factor), 0).repeat(int(factor), 1)
    weighted = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(weighted, size, interpolation=cv2.INTER_AREA)
    colours, opacity = small[..., :3], small[..., 3:]
    return np.concatenate([colours / np.maximum(opacity, 1e-6), opacity], -1)
