"""A figure of the cameras around the object: initial, resulting and reference ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from pmni.config.export import ExportSettings
from pmni.data.capture import Capture
from pmni.evaluation.alignment import align_cameras, align_rotations
from pmni.exporting.scene import Cameras
from pmni.exporting.shading import Viewpoint, shade
from pmni.geometry.cameras import look_at
from pmni.geometry.mesh import Mesh
from pmni.geometry.transforms import Similarity, rotation_angle_deg
from pmni.synthetic.mesh_surface import MeshSurface

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1c1f24"
"""Colour of text."""

MUTED = "#6a6f78"
"""Colour of notes and of the views' names."""

INITIAL_COLOUR = "#d98a1f"
"""Colour of the initial cameras."""

RESULT_COLOUR = "#1668c7"
"""Colour of the resulting cameras."""

REFERENCE_COLOUR = "#8b9098"
"""Colour of the reference cameras."""

OBJECT_RADIUS = 0.8
"""Assumed radius of an object without a mesh, in radii of its bounding sphere."""

MAX_DISTANCE = 2.7
"""Largest mean distance at which cameras are drawn, in object radii."""

FRUSTUM_DEPTH = 0.30
"""Depth of a drawn frustum, in object radii."""

FRUSTUM_HALF_WIDTH = 0.17
"""Half of the longer side of a drawn frustum's image, in object radii."""

SIDE = 760
"""Side of a panel, pixels."""

DPI = 150
"""Resolution that sizes of text refer to, pixels per inch."""

HEAD = 96
"""Height of the title and the legend above the panels, pixels."""

FOOT = 40
"""Height of the note below the panels, pixels."""

FIELD_OF_VIEW = 26.0
"""Largest field of view of a panel, degrees."""

AZIMUTH = 30.0
"""Azimuth of the side panel's viewpoint relative to the cameras' mean (or first) one, degrees."""

ELEVATION_OFFSET = 16.0
"""Difference between the elevations of the side panel's viewpoint and of the cameras, which would
otherwise hide the object, degrees."""

MIN_ELEVATION = 4.0
"""Least elevation of the side panel's viewpoint below the cameras, degrees."""

MAX_LABELS = 40
"""Largest number of views whose names are written."""

LABEL_GAP = 0.16
"""Distance of a view's name from its camera, in object radii."""


@dataclass(frozen=True)
class DrawnCameras:
    """One set of cameras, in the figure's frame."""

    label: str
    colour: str
    width: float
    views: tuple[str, ...]
    c2w: Float[np.ndarray, "V 4 4"]


@dataclass(frozen=True)
class Arrangement:
    """Cameras and object in one frame: its centre at the origin, lengths in object radii."""

    sets: tuple[DrawnCameras, ...]
    """Sets of cameras in the order in which they are drawn; the last is the result."""
    surface: MeshSurface | None
    shortening: float
    """Factor by which the cameras' true distance exceeds the drawn one."""
    aspect: float
    """Width of the images over their height."""


def write_figure(
    path: Path,
    capture: Capture,
    cameras: Cameras,
    initial: Cameras | None,
    mesh: Mesh | None,
    settings: ExportSettings,
) -> None:
    """Write the figure as a PNG. `mesh` is in the frame of `cameras`, dataset units."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arrangement = arrange(capture, cameras, initial, mesh, settings.collinearity)
    width, height = 2 * SIDE, HEAD + SIDE + FOOT
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for column, viewpoint in enumerate(viewpoints(arrangement)):
        axes = figure.add_axes((column * 0.5, FOOT / height, 0.5, SIDE / height))
        axes.set_axis_off()
        draw(axes, arrangement, viewpoint)
        if column == 1 and len(cameras.views) <= MAX_LABELS:
            _label(axes, arrangement.sets[-1], viewpoint)
    top = 1 - 34 / height
    figure.text(28 / width, top, capture.name, size=12, weight="bold", color=INK, va="center")
    left = 28.0
    for drawn in reversed(arrangement.sets):
        words = f"{drawn.label}{_difference(drawn, arrangement)}"
        at = 1 - 68 / height
        figure.text(left / width, at, "■", size=8, color=drawn.colour, va="center")
        text = figure.text((left + 22) / width, at, words, size=8, color=INK, va="center")
        left += 22 + text.get_window_extent().width + 34
    note = f"{len(cameras.views)} cameras, from the side and from above; frusta are not to scale"
    if arrangement.shortening > 1.05:
        note += f", distances from the object are drawn {arrangement.shortening:.2g} times shorter"
    figure.text(28 / width, 20 / height, note, size=7, color=MUTED, va="center")
    figure.savefig(path, dpi=DPI, format="png")


def arrange(
    capture: Capture,
    cameras: Cameras,
    initial: Cameras | None,
    mesh: Mesh | None,
    collinearity: float,
) -> Arrangement:
    """Move all cameras and the mesh into the frame of the reference, else of the result."""
    to_frame = Similarity.identity()
    target = cameras.c2w
    sets = []
    if capture.reference_c2w is not None:
        rows = [capture.views.index(view) for view in cameras.views]
        target = capture.reference_c2w[rows].copy()
        target[:, :3, 3] = capture.to_dataset(target[:, :3, 3])
        sets.append(("reference", REFERENCE_COLOUR, 1.1, cameras.views, target))
        to_frame = align_cameras(cameras.c2w, target, collinearity)[0]
    if initial is not None:
        common = tuple(view for view in cameras.views if view in initial.views)
        reference = target[[cameras.views.index(view) for view in common]]
        start = initial.c2w[[initial.views.index(view) for view in common]]
        moved = align_cameras(start, reference, collinearity)[0].move_cameras(start)
        sets.append(("initial", INITIAL_COLOUR, 1.1, common, moved))
    sets.append(("result", RESULT_COLOUR, 1.5, cameras.views, to_frame.move_cameras(cameras.c2w)))

    surface = None
    if mesh is None:
        centre = to_frame(cameras.offset)
        radius = OBJECT_RADIUS * to_frame.scale * cameras.scale
    else:
        vertices = to_frame(np.asarray(mesh.vertices, np.float64))
        centre = (vertices.min(0) + vertices.max(0)) / 2
        radius = float(np.linalg.norm(vertices - centre, axis=1).max())
        surface = MeshSurface(Mesh((vertices - centre) / radius, mesh.faces))
    distance = np.linalg.norm(sets[-1][4][:, :3, 3] - centre, axis=1).mean() / radius
    shortening = max(1.0, float(distance) / MAX_DISTANCE)
    drawn = []
    for label, colour, width, views, c2w in sets:
        near = c2w.copy()
        near[:, :3, 3] = (c2w[:, :3, 3] - centre) / radius / shortening
        drawn.append(DrawnCameras(label, colour, width, views, near))
    return Arrangement(tuple(drawn), surface, shortening, cameras.size[1] / cameras.size[0])


def viewpoints(arrangement: Arrangement) -> tuple[Viewpoint, Viewpoint]:
    """Viewpoints from the side and from above; upright as the cameras are on average."""
    c2w = arrangement.sets[-1].c2w
    mean_up = -c2w[:, :3, 1].mean(0)
    # cameras of any roll have no common up
    up = mean_up if np.linalg.norm(mean_up) > 0.3 else np.array([0.0, 0.0, 1.0])
    up = up / np.linalg.norm(up)
    middle = c2w[:, :3, 3].mean(0)
    middle -= up * (middle @ up)
    front = middle if np.linalg.norm(middle) > 0.3 * MAX_DISTANCE else c2w[0, :3, 3]
    front = front - up * (front @ up)
    if np.linalg.norm(front) < 1e-6:
        front = np.eye(3)[np.abs(up).argmin()]
        front = front - up * (front @ up)
    front = front / np.linalg.norm(front)
    right = np.cross(up, front)
    azimuth = np.deg2rad(AZIMUTH)
    sine = (c2w[:, :3, 3] @ up).mean() / np.linalg.norm(c2w[:, :3, 3], axis=1).mean()
    mean_elevation = np.rad2deg(np.arcsin(sine))
    below = mean_elevation - ELEVATION_OFFSET
    above = mean_elevation + ELEVATION_OFFSET
    elevation = np.deg2rad(below if below > MIN_ELEVATION else above)
    level = np.cos(azimuth) * front + np.sin(azimuth) * right
    side = np.cos(elevation) * level + np.sin(elevation) * up
    points = _points_of(arrangement)
    return _viewpoint_from(side, up, points), _viewpoint_from(up, -front, points)


def _viewpoint_from(
    direction: Float[np.ndarray, "3"], up: Float[np.ndarray, "3"], points: Float[np.ndarray, "N 3"]
) -> Viewpoint:
    """A viewpoint in that direction into whose image the points and their labels just fit."""
    reach = np.linalg.norm(points, axis=1).max() + 2 * LABEL_GAP
    half = np.deg2rad(FIELD_OF_VIEW / 2)
    c2w = look_at(direction * reach / np.sin(half), np.zeros(3), (up[0], up[1], up[2]))
    pixels, _ = Viewpoint(c2w, np.eye(3), SIDE).project(points)
    low, high = pixels.min(0), pixels.max(0)
    focal = SIDE * (1 - 2.5 * LABEL_GAP / reach) / (high - low).max()
    K = np.diag([focal, focal, 1.0])
    K[:2, 2] = (SIDE - 1) / 2 - focal * (low + high) / 2
    return Viewpoint(c2w, K, SIDE)


def _points_of(arrangement: Arrangement) -> Float[np.ndarray, "N 3"]:
    corners = [frusta(drawn.c2w, arrangement.aspect).reshape(-1, 3) for drawn in arrangement.sets]
    surface = [] if arrangement.surface is None else [arrangement.surface.mesh.vertices]
    return np.concatenate([*corners, *surface])


def frusta(c2w: Float[np.ndarray, "*V 4 4"], aspect: float) -> Float[np.ndarray, "*V 8 3"]:
    """Apex, image corners (clockwise from the upper left), and a roof on the image's upper edge.

    All frusta have the same size, whatever the cameras' field of view.
    """
    x, z = FRUSTUM_HALF_WIDTH * min(1, aspect), FRUSTUM_DEPTH
    y = x / aspect
    local = np.array(
        [
            *([0, 0, 0], [-x, -y, z], [x, -y, z], [x, y, z], [-x, y, z]),
            *([-0.45 * x, -1.1 * y, z], [0.45 * x, -1.1 * y, z], [0, -1.6 * y, z]),
        ]
    )
    return local @ np.swapaxes(c2w[..., :3, :3], -1, -2) + c2w[..., None, :3, 3]


def draw(axes: "Axes", arrangement: Arrangement, viewpoint: Viewpoint) -> None:
    """Draw the frusta behind the object, the object, and the frusta before it, from far to near."""
    from matplotlib.collections import LineCollection

    result = arrangement.sets[-1]
    _, depth = viewpoint.project(result.c2w[:, :3, 3])
    middle = viewpoint.project(np.zeros(3))[1]
    for index in np.argsort(-depth):
        behind = bool(depth[index] > middle)
        for drawn in arrangement.sets:
            if result.views[index] not in drawn.views:
                continue
            own = drawn.views.index(result.views[index])
            pixels, _ = viewpoint.project(frusta(drawn.c2w[own], arrangement.aspect))
            _draw_frustum(axes, pixels, drawn, 1 if behind else 3, 0.4 if behind else 1.0)
    if arrangement.surface is not None:
        image = shade(arrangement.surface, viewpoint)
        axes.imshow(image, zorder=2, interpolation="nearest", aspect="auto")
    axes.set_xlim(-0.5, SIDE - 0.5)
    axes.set_ylim(SIDE - 0.5, -0.5)
    for drawn in arrangement.sets[:-1]:
        rows = [result.views.index(view) for view in drawn.views]
        ends = np.stack([drawn.c2w[:, :3, 3], result.c2w[rows, :3, 3]], 1)
        pixels, _ = viewpoint.project(ends)
        lines = LineCollection(list(pixels), colors=drawn.colour, linewidths=0.6, zorder=1)
        axes.add_collection(lines)


def _label(axes: "Axes", drawn: DrawnCameras, viewpoint: Viewpoint) -> None:
    positions, _ = viewpoint.project(drawn.c2w[:, :3, 3] * (1 + LABEL_GAP / MAX_DISTANCE))
    for view, (u, v) in zip(drawn.views, positions, strict=True):
        axes.text(u, v, view, size=5.5, color=MUTED, ha="center", va="center", zorder=4)


def _draw_frustum(
    axes: "Axes",
    pixels: Float[np.ndarray, "8 2"],
    drawn: DrawnCameras,
    layer: int,
    strength: float,
) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Polygon

    apex, corners, roof = pixels[0], pixels[1:5], pixels[5:]
    style = {"facecolor": drawn.colour, "edgecolor": "none", "zorder": layer}
    axes.add_patch(Polygon(corners, closed=True, alpha=0.14 * strength, **style))
    axes.add_patch(Polygon(roof, closed=True, alpha=strength, **style))
    rays = [np.stack([apex, corner]) for corner in corners]
    outline = np.concatenate([corners, corners[:1]])
    axes.add_collection(
        LineCollection(
            [*rays, outline],
            colors=drawn.colour,
            linewidths=[drawn.width * 0.6] * 4 + [drawn.width],
            alpha=strength,
            capstyle="round",
            joinstyle="round",
            zorder=layer,
        )
    )


def _difference(drawn: DrawnCameras, arrangement: Arrangement) -> str:
    """Rotation errors against the reference after the best common rotation, in words."""
    reference = arrangement.sets[0]
    if reference.label != "reference" or drawn.label == "reference":
        return ""
    rows = [reference.views.index(view) for view in drawn.views]
    target = reference.c2w[rows]
    moved = align_rotations(drawn.c2w, target).move_cameras(drawn.c2w)
    angles = rotation_angle_deg(moved[:, :3, :3], target[:, :3, :3])
    return f": {angles.mean():.2g}° from the reference on average, {angles.max():.2g}° at most"
