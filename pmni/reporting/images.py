"""Normals, masks, errors and distances as small images with a transparent background."""

import base64
from dataclasses import dataclass

import cv2
import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pmni.geometry.cameras import flip_yz

ERROR_COLOURS = "inferno"
"""Matplotlib colour map of angular errors."""

DISTANCE_COLOURS = "viridis"
"""Matplotlib colour map of distances."""

CROP_MARGIN = 0.04
"""Margin about the masks, as a fraction of their longest side."""

DEPTH_PERCENTILES = (1, 99)
"""Percentiles of a view's distances at the ends of the colour scale."""

CONTOUR_INTERVALS = 12
"""Intervals between contour lines from the near to the far end of the colour scale."""

CONTOUR_BRIGHTNESS = 0.72
"""Brightness of a contour line relative to the colour around it."""


@dataclass(frozen=True)
class Crop:
    """The same window of every view, so that they compare: rows and columns, then a scale."""

    top: int
    bottom: int
    left: int
    right: int
    scale: float

    @property
    def aspect(self) -> float:
        """Width by height."""
        return (self.right - self.left) / (self.bottom - self.top)

    def cut(self, values: np.ndarray) -> np.ndarray:
        """The window of a view's values (H, W, ...)."""
        return values[self.top : self.bottom, self.left : self.right]

    def shrink(self, image: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "h w 4"]:
        """A window's RGBA image, black where it is transparent, at the scale."""
        if self.scale == 1:
            return image
        height, width = image.shape[:2]
        size = (max(1, round(width * self.scale)), max(1, round(height * self.scale)))
        opaque = image.astype(np.float32)
        small: np.ndarray = cv2.resize(opaque, size, interpolation=cv2.INTER_AREA)
        small[..., :3] /= np.maximum(small[..., 3:] / 255, 1e-3)
        return np.clip(np.round(small), 0, 255).astype(np.uint8)


def crop_to(masks: Bool[np.ndarray, "V H W"], longest: int) -> Crop:
    """The window that holds all masks with a margin, shrunk to at most `longest` pixels."""
    rows = np.flatnonzero(masks.any((0, 2)))
    columns = np.flatnonzero(masks.any((0, 1)))
    if len(rows) == 0:
        rows, columns = np.arange(masks.shape[1]), np.arange(masks.shape[2])
    margin = round(CROP_MARGIN * max(np.ptp(rows), np.ptp(columns))) + 1
    top, bottom = max(rows[0] - margin, 0), min(rows[-1] + margin + 1, masks.shape[1])
    left, right = max(columns[0] - margin, 0), min(columns[-1] + margin + 1, masks.shape[2])
    scale = min(1.0, longest / max(bottom - top, right - left))
    return Crop(int(top), int(bottom), int(left), int(right), scale)


def normal_image(
    normals: Float[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 4"]:
    """RGBA of camera-frame normals (OpenCV axes) in the usual colours: x right, y up, z to us."""
    colours = (flip_yz(normals) + 1) * 127.5
    return _rgba(colours, mask)


def mask_image(mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 4"]:
    """RGBA of a mask: black and opaque inside."""
    return _rgba(np.zeros((*mask.shape, 3)), mask)


def error_image(error: Float[np.ndarray, "H W"], largest: float) -> UInt8[np.ndarray, "H W 4"]:
    """RGBA of an error map, NaN outside; `largest` is the end of the colour scale."""
    seen = np.isfinite(error)
    shade = np.where(seen, error, 0).astype(np.float32) / max(largest, 1e-9)
    return _rgba(matplotlib.colormaps[ERROR_COLOURS](np.clip(shade, 0, 1))[..., :3] * 255, seen)


def distance_image(distance: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 4"]:
    """RGBA of ray distances, NaN outside: near is bright, with contour lines."""
    seen = np.isfinite(distance)
    if not seen.any():
        return np.zeros((*distance.shape, 4), np.uint8)
    near, far = np.percentile(distance[seen], DEPTH_PERCENTILES)
    depth = (np.where(seen, distance, far) - near) / max(far - near, 1e-9)
    colours = matplotlib.colormaps[DISTANCE_COLOURS](np.clip(1 - depth, 0, 1))[..., :3] * 255
    level = np.floor(depth * CONTOUR_INTERVALS)
    line = np.zeros_like(seen)
    line[:-1] |= level[:-1] != level[1:]
    line[:, :-1] |= level[:, :-1] != level[:, 1:]
    return _rgba(colours * np.where(line, CONTOUR_BRIGHTNESS, 1.0)[..., None], seen)


def _rgba(colours: np.ndarray, seen: np.ndarray) -> UInt8[np.ndarray, "H W 4"]:
    shown = np.where(seen[..., None], np.clip(colours, 0, 255), 0).astype(np.uint8)
    return np.dstack([shown, np.where(seen, 255, 0).astype(np.uint8)])


def data_uri(image: UInt8[np.ndarray, "H W 4"], quality: int) -> str:
    """An RGBA image as WebP in a data URI."""
    ordered = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA)
    encoded = cv2.imencode(".webp", ordered, [cv2.IMWRITE_WEBP_QUALITY, quality])[1]
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()


def sprite_sheet(tiles: list[UInt8[np.ndarray, "H W 4"]], side: int) -> UInt8[np.ndarray, "A B 4"]:
    """Square tiles of `side` pixels in rows of ceil(sqrt(count))."""
    columns = int(np.ceil(np.sqrt(len(tiles))))
    rows = -(-len(tiles) // columns)
    sheet = np.zeros((rows * side, columns * side, 4), np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet[row * side : (row + 1) * side, column * side : (column + 1) * side] = tile
    return sheet


def colour_ramp(name: str) -> str:
    """A colour scale as a CSS gradient, from its lowest value to its highest."""
    stops = matplotlib.colormaps[name](np.linspace(0, 1, 12))
    return "linear-gradient(90deg, " + ", ".join(matplotlib.colors.to_hex(s) for s in stops) + ")"


def colour_table(name: str) -> list[int]:
    """256 colours of a scale as r, g, b, r, g, b, ... for the 3D viewer."""
    colours = matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3]
    return [int(value) for value in (colours * 255).round().ravel()]
