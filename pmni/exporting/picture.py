"""The picture of the cameras around the object: where they began, where they are, the reference."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from pmni.data.capture import Capture
from pmni.evaluation.alignment import align_cameras, align_rotations
from pmni.exporting.cameras import Cameras
from pmni.exporting.shading import Viewpoint, shade
from pmni.geometry.cameras import look_at
from pmni.geometry.mesh import Mesh
from pmni.geometry.transforms import Similarity, rotation_angle_deg
from pmni.synthetic.raytrace import MeshSurface

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED = "#1c1f24", "#6a6f78"
START, RESULT, REFERENCE = "#d98a1f", "#1668c7", "#8b9098"
OBJECT_RADIUS = 0.8
"""Of the unit sphere, where there is no mesh to measure."""
NEAREST = 2.7
"""Cameras are drawn no farther out than this many object radii on average."""
DEPTH, HALF_WIDTH = 0.30, 0.17
"""Of a drawn frustum, in object radii."""
SIDE, DPI, HEAD, FOOT = 760, 150, 96, 40
"""Pixels: side of a panel, height of the words above and below."""
FIELD_OF_VIEW = 26.0
AZIMUTH, APART, LOWEST = 30.0, 16.0, 4.0
"""Degrees: azimuth of the first panel's viewpoint from the cameras' mean or first one; by how much
its elevation differs from theirs, so that they do not hide the object; its least elevation."""
MOST_LABELS = 40
LABEL_GAP = 0.16
"""Of a view's name from its camera, in object radii."""


@dataclass(frozen=True)
class DrawnCameras:
    """One set of cameras, in the picture's frame."""

    label: str
    colour: str
    width: float
    views: tuple[str, ...]
    c2w: Float[np.ndarray, "V 4 4"]


@dataclass(frozen=True)
class Arrangement:
    """Everything in one frame: the object's centre at the origin, lengths in object radii."""

    sets: tuple[DrawnCameras, ...]
    """Drawn one over the other; the last is the result."""
    surface: MeshSurface | None
    shortened: float
    """How many times nearer the cameras are drawn than they are."""
    aspect: float


def write_picture(
    path: Path, capture: Capture, cameras: Cameras, initial: Cameras | None, mesh: Mesh | None
) -> None:
    """Write the picture as a PNG. `mesh` is in the frame of `cameras`, dataset units."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arrangement = arrange(capture, cameras, initial, mesh)
    width, height = 2 * SIDE, HEAD + SIDE + FOOT
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for column, viewpoint in enumerate(viewpoints(arrangement)):
        axes = figure.add_axes((column * 0.5, FOOT / height, 0.5, SIDE / height))
        axes.set_axis_off()
        draw(axes, arrangement, viewpoint)
        if column == 1 and len(cameras.views) <= MOST_LABELS:
            _label(axes, arrangement.sets[-1], viewpoint)
    top = 1 - 34 / height
    figure.text(28 / width, top, capture.name, size=12, weight="bold", color=INK, va="center")
    place = 28.0
    for drawn in reversed(arrangement.sets):
        words = f"{drawn.label}{_difference(drawn, arrangement)}"
        at = 1 - 68 / height
        figure.text(place / width, at, "■", size=8, color=drawn.colour, va="center")
        text = figure.text((place + 22) / width, at, words, size=8, color=INK, va="center")
        place += 22 + text.get_window_extent().width + 34
    note = f"{len(cameras.views)} cameras, from the side and from above; frusta are not to scale"
    if arrangement.shortened > 1.05:
        note += f", distances from the object are drawn {arrangement.shortened:.2g} times shorter"
    figure.text(28 / width, 20 / height, note, size=7, color=MUTED, va="center")
    figure.savefig(path, dpi=DPI, format="png")


def arrange(
    capture: Capture, cameras: Cameras, initial: Cameras | None, mesh: Mesh | None
) -> Arrangement:
    """Move all cameras and the mesh into the frame of the reference, else of the result."""
    to_frame = Similarity.identity()
    target = cameras.c2w
    sets = []
    if capture.reference_c2w is not None:
        rows = [capture.views.index(view) for view in cameras.views]
        target = capture.reference_c2w[rows].copy()
        target[:, :3, 3] = capture.to_dataset(target[:, :3, 3])
        sets.append(("reference", REFERENCE, 1.1, cameras.views, target))
        to_frame = align_cameras(cameras.c2w, target)[0]
    if initial is not None:
        known = tuple(view for view in cameras.views if view in initial.views)
        goal = target[[cameras.views.index(view) for view in known]]
        start = initial.c2w[[initial.views.index(view) for view in known]]
        moved = align_cameras(start, goal)[0].move_cameras(start)
        sets.append(("initial", START, 1.1, known, moved))
    sets.append(("result", RESULT, 1.5, cameras.views, to_frame.move_cameras(cameras.c2w)))

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
    shortened = max(1.0, float(distance) / NEAREST)
    drawn = []
    for label, colour, width, views, c2w in sets:
        near = c2w.copy()
        near[:, :3, 3] = (c2w[:, :3, 3] - centre) / radius / shortened
        drawn.append(DrawnCameras(label, colour, width, views, near))
    return Arrangement(tuple(drawn), surface, shortened, cameras.size[1] / cameras.size[0])


def viewpoints(arrangement: Arrangement) -> tuple[Viewpoint, Viewpoint]:
    """From the side, somewhat above; and from above. Upright as the cameras are on average."""
    c2w = arrangement.sets[-1].c2w
    mean_up = -c2w[:, :3, 1].mean(0)
    # cameras of any roll have no common up
    up = mean_up if np.linalg.norm(mean_up) > 0.3 else np.array([0.0, 0.0, 1.0])
    up = up / np.linalg.norm(up)
    middle = c2w[:, :3, 3].mean(0)
    middle -= up * (middle @ up)
    front = middle if np.linalg.norm(middle) > 0.3 * NEAREST else c2w[0, :3, 3]
    front = front - up * (front @ up)
    if np.linalg.norm(front) < 1e-6:
        front = np.eye(3)[np.abs(up).argmin()]
        front = front - up * (front @ up)
    front = front / np.linalg.norm(front)
    right = np.cross(up, front)
    azimuth = np.deg2rad(AZIMUTH)
    sine = (c2w[:, :3, 3] @ up).mean() / np.linalg.norm(c2w[:, :3, 3], axis=1).mean()
    theirs = np.rad2deg(np.arcsin(sine))
    elevation = np.deg2rad(theirs + (-APART if theirs - APART > LOWEST else APART))
    level = np.cos(azimuth) * front + np.sin(azimuth) * right
    side = np.cos(elevation) * level + np.sin(elevation) * up
    points = _points_of(arrangement)
    return _seen_from(side, up, points), _seen_from(up, -front, points)


def _seen_from(
    direction: Float[np.ndarray, "3"], up: Float[np.ndarray, "3"], points: Float[np.ndarray, "N 3"]
) -> Viewpoint:
    """A viewpoint in that direction in whose picture the points and their labels just fit."""
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
    """Apex, the image's corners (from its left upper one, clockwise), and a roof on its upper edge.

    All frusta have the same size, whatever the cameras' field of view.
    """
    x, y = HALF_WIDTH * min(1, aspect), HALF_WIDTH * min(1, aspect) / aspect
    local = np.array(
        [
            *([0, 0, 0], [-x, -y, DEPTH], [x, -y, DEPTH], [x, y, DEPTH], [-x, y, DEPTH]),
            *([-0.45 * x, -1.1 * y, DEPTH], [0.45 * x, -1.1 * y, DEPTH], [0, -1.6 * y, DEPTH]),
        ]
    )
    return local @ np.swapaxes(c2w[..., :3, :3], -1, -2) + c2w[..., None, :3, 3]


def draw(axes: "Axes", arrangement: Arrangement, viewpoint: Viewpoint) -> None:
    """Frusta behind the object, the object, frusta before it; each from far to near."""
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
    places, _ = viewpoint.project(drawn.c2w[:, :3, 3] * (1 + LABEL_GAP / NEAREST))
    for view, (u, v) in zip(drawn.views, places, strict=True):
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
    """How far the rotations are from the reference's after the best common rotation, in words."""
    reference = arrangement.sets[0]
    if reference.label != "reference" or drawn.label == "reference":
        return ""
    rows = [reference.views.index(view) for view in drawn.views]
    truth = reference.c2w[rows]
    moved = align_rotations(drawn.c2w, truth).move_cameras(drawn.c2w)
    angles = rotation_angle_deg(moved[:, :3, :3], truth[:, :3, :3])
    return f": {angles.mean():.2g}° from the reference on average, {angles.max():.2g}° at most"
