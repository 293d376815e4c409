"""A contact sheet of integrated surfaces: shaded, coloured from near to far."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

LIGHT = np.array([-0.4, -0.6, -0.7]) / np.linalg.norm([-0.4, -0.6, -0.7])
"""Direction to the light in the camera frame: from the upper left."""


def write_preview(
    path: Path,
    distances: Float[np.ndarray, "V H W"],
    intrinsics: Float[np.ndarray, "V 3 3"],
    views: tuple[str, ...],
) -> None:
    """Write the sheet as a PNG. Distances are NaN outside the masks."""
    inside = np.isfinite(distances).any(0)
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    across = max(1, round(np.sqrt(1.6 * len(views))))
    down = -(-len(views) // across)
    aspect = (rows[-1] - rows[0] + 1) / (columns[-1] - columns[0] + 1)
    figure = Figure(figsize=(2 * across, 2 * down * aspect + 0.25 * down), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (view, distance, K) in enumerate(zip(views, distances, intrinsics, strict=True)):
        axes = figure.add_subplot(down, across, index + 1)
        axes.imshow(shaded(distance, K[0, 0])[window])
        axes.set_title(view, size=7, color="#6a737d", pad=2)
        axes.set_axis_off()
    figure.savefig(path, dpi=100, format="png")


def shaded(distance: Float[np.ndarray, "H W"], focal: float) -> Float[np.ndarray, "H W 4"]:
    """RGBA of a surface lit from the upper left; near is light, far is dark."""
    inside = np.isfinite(distance)
    if not inside.any():
        return np.zeros((*distance.shape, 4))
    near, far = np.percentile(distance[inside], [1, 99])
    tone = np.clip((distance - near) / max(far - near, 1e-12), 0, 1)
    dz_dv, dz_du = np.gradient(distance / np.nanmedian(distance) * focal)
    normal = np.stack([dz_du, dz_dv, -np.ones_like(distance)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = np.where(np.isfinite(normal).all(-1), np.clip(normal @ LIGHT, 0, 1), 0.5)
    colour = colormaps["viridis_r"](np.nan_to_num(tone))
    colour[..., :3] *= 0.35 + 0.65 * light[..., None]
    colour[..., 3] = inside
    return colour
