"""Relative rotations by partial support functions: a search of all of SO(3) without features.

The support function of a body, h(u) = max over its points x of u . x, is known from one view for
the directions u that face the camera. For a direction that faces two cameras, with
x_j = R x_i + t, h_j(u) = h_i(R^T u) + t . u. So each rotation of a fixed grid leaves a small linear
problem for t, whose residual ranks it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation
from torch import Tensor

from pmni.config.registration import SupportSearchSettings
from pmni.registration.working_views import WorkingViews


@dataclass(frozen=True)
class SearchGrid:
    """Rotations from a source to a target view, with look-ups in the source's support function."""

    rotations: Float[Tensor, "N 3 3"]
    directions: Float[Tensor, "U 3"]
    """In the target's frame, facing its camera."""
    cells: Int[Tensor, "N U"]
    """The cell of R^T u in the source's table."""
    valid: Float[Tensor, "N U"]
    """1 where R^T u faces the source's camera."""
    inverse: Float[Tensor, "N 3 3"]
    """The inverse of the normal matrix of t, with equal weights."""
    settings: SupportSearchSettings


@dataclass(frozen=True)
class Candidates:
    """The C best rotations of the search for each of B pairs, best first."""

    rotations: Float[Tensor, "B C 3 3"]
    translations: Float[Tensor, "B C 3"]
    residuals: Float[Tensor, "B C"]
    """RMS difference of the support functions, increased where few directions are compared."""


def super_fibonacci(count: int) -> Float[np.ndarray, "N 3 3"]:
    """Rotations that cover SO(3) evenly (Alexa, Super-Fibonacci Spirals, CVPR 2022)."""
    phi, psi = np.sqrt(2.0), 1.533751168755204288118041
    s = np.arange(count) + 0.5
    near, far = np.sqrt(s / count), np.sqrt(1 - s / count)
    alpha, beta = 2 * np.pi * s / phi, 2 * np.pi * s / psi
    quaternions = [
        near * np.sin(alpha),
        near * np.cos(alpha),
        far * np.sin(beta),
        far * np.cos(beta),
    ]
    return Rotation.from_quat(np.stack(quaternions, -1)).as_matrix()


def fibonacci_sphere(count: int) -> Float[np.ndarray, "N 3"]:
    """Unit vectors that cover the sphere evenly."""
    s = np.arange(count) + 0.5
    z = 1 - 2 * s / count
    angle = np.pi * (1 + np.sqrt(5.0)) * s
    out = np.sqrt(1 - z * z)
    return np.stack([out * np.cos(angle), out * np.sin(angle), z], -1)


@lru_cache(maxsize=2)
def search_grid(settings: SupportSearchSettings, device: torch.device) -> SearchGrid:
    """The grid of rotations whose viewing directions differ by less than the largest angle."""
    rotations = super_fibonacci(settings.rotations)
    rotations = rotations[rotations[:, 2, 2] > np.cos(np.deg2rad(settings.max_view_angle_deg))]
    directions = fibonacci_sphere(settings.directions)
    directions = directions[directions[:, 2] < settings.max_facing_z]
    R = torch.from_numpy(rotations.astype(np.float32)).to(device)
    u = torch.from_numpy(directions.astype(np.float32)).to(device)
    back = u @ R  # rows R^T u
    valid = (back[..., 2] < settings.max_facing_z).float()
    normal = (valid @ _outer(u)).reshape(-1, 3, 3)
    return SearchGrid(R, u, cells_of(back, settings), valid, _inverse(normal), settings)


# -------------------------------------------------------------- support functions
# A table is Lambert's equal-area map of the directions that face the camera: the disc around
# (0, 0, -1), in a square of `table_cells` cells along each side.
def _table_radius(settings: SupportSearchSettings) -> float:
    return float(np.sqrt(2 + 2 * settings.max_facing_z))


def table_directions(settings: SupportSearchSettings, device: torch.device) -> Float[Tensor, "D 3"]:
    """The unit direction at the centre of each cell (those beyond the disc are never used)."""
    cells, radius = settings.table_cells, _table_radius(settings)
    along = ((torch.arange(cells, device=device) + 0.5) / cells * 2 - 1) * radius
    y, x = (axis.reshape(-1) for axis in torch.meshgrid(along, along, indexing="ij"))
    square = (x * x + y * y).clamp_max(4)
    sideways = (1 - square / 4).sqrt()
    directions = torch.stack([x * sideways, y * sideways, square / 2 - 1], -1)
    return directions / directions.norm(dim=-1, keepdim=True)


def cells_of(
    directions: Float[Tensor, "*n 3"], settings: SupportSearchSettings
) -> Int[Tensor, "*n"]:
    """The cell that each unit direction lies in; the nearest one if it faces away."""
    cells = settings.table_cells
    x, y, z = directions.unbind(-1)
    stretch = (2 / (1 - z).clamp_min(1e-6)).sqrt() / _table_radius(settings)
    column, row = (
        ((axis * stretch + 1) * (cells / 2)).long().clamp(0, cells - 1) for axis in (x, y)
    )
    return row * cells + column


def support_function(
    points: Float[Tensor, "N 3"], directions: Float[Tensor, "D 3"]
) -> Float[Tensor, " D"]:
    """The support function of points: their largest component along each direction."""
    return torch.cat([(part @ points.T).amax(1) for part in directions.split(256)])


@dataclass(frozen=True)
class SupportFunctions:
    """The partial support functions of all views, about their centres."""

    tables: Float[Tensor, "V D"]
    """Values in the directions of `table_directions`."""
    values: Float[Tensor, "V U"]
    """Values in the directions of the search grid."""


def view_support_functions(views: WorkingViews, grid: SearchGrid) -> SupportFunctions:
    """The support functions of each view's visible surface, up to the contour."""
    table, most = table_directions(grid.settings, views.device), grid.settings.max_body_points
    bodies = [_body(views, index, most) - views.centres[index] for index in range(len(views))]
    return SupportFunctions(
        torch.stack([support_function(body, table) for body in bodies]),
        torch.stack([support_function(body, grid.directions) for body in bodies]),
    )


def _body(views: WorkingViews, index: int, most: int) -> Float[Tensor, "N 3"]:
    """Surface points of the pixels inside a view's mask, thinned evenly to at most so many."""
    row, column = torch.nonzero(views.signed_distance[index] < 0, as_tuple=True)
    step = -(-len(row) // most)
    row, column = row[::step], column[::step]
    K = views.intrinsics[index]
    z = views.depth[index, row, column]
    x, y = (column - K[0, 2]) / K[0, 0] * z, (row - K[1, 2]) / K[1, 1] * z
    return torch.stack([x, y, z], -1)


# -------------------------------------------------------------------- the search
def search(
    views: WorkingViews,
    supports: SupportFunctions,
    grid: SearchGrid,
    source: int,
    targets: Int[Tensor, " B"],
) -> Candidates:
    """The best rotations from one source view to each target, with their translations.

    Plain least squares ranks them as well as robust weights do.
    """
    count = grid.settings.candidates
    table = supports.tables[source][grid.cells]
    residual, shift = _least_squares(grid, table, supports.values[targets])
    best = residual.topk(min(count, len(residual)), dim=0, largest=False).indices.T
    R = grid.rotations[best]
    shift = shift.gather(0, best.T[..., None].expand(-1, -1, 3)).transpose(0, 1)
    t = shift + views.centres[targets][:, None] - R @ views.centres[source]
    return Candidates(R, t, residual.T.gather(1, best))


def _least_squares(
    grid: SearchGrid, table: Float[Tensor, "N U"], values: Float[Tensor, "B U"]
) -> tuple[Float[Tensor, "N B"], Float[Tensor, "N B 3"]]:
    """Residual and translation of each rotation for each target, with equal weights."""
    masked = grid.valid * table
    moments = grid.valid @ (values[:, :, None] * grid.directions).permute(1, 0, 2).flatten(1)
    right = moments.reshape(len(table), -1, 3) - (masked @ grid.directions)[:, None]
    t = right @ grid.inverse  # symmetric
    squares = grid.valid @ (values * values).T - 2 * masked @ values.T
    squares = squares + (masked * table).sum(1, keepdim=True) - (right * t).sum(-1)
    count = grid.valid.sum(1, keepdim=True)
    return (squares.clamp_min(0) / count).sqrt() * (1 + grid.settings.shrinkage / count), t


def _outer(u: Float[Tensor, "U 3"]) -> Float[Tensor, "U 9"]:
    """u u^T of each vector, flattened."""
    return (u[:, :, None] * u[:, None, :]).flatten(1)


def _inverse(symmetric: Float[Tensor, "N 3 3"]) -> Float[Tensor, "N 3 3"]:
    """Inverses of positive semidefinite matrices, regularised by a small diagonal."""
    a, b, c = (symmetric + 1e-3 * torch.eye(3, device=symmetric.device)).unbind(1)
    cofactors = torch.stack(
        [torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -1
    )
    return cofactors / (a * cofactors[..., 0]).sum(-1)[:, None, None]
