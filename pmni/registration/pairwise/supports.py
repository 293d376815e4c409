"""Relative rotations from partial support functions: a search of all of SO(3) without features.

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

from pmni.registration.views import Views

_ROTATIONS = 30_000  # on all of SO(3): about 7 degrees apart
_DIRECTIONS = 160  # on the whole sphere
_TURN_LIMIT = np.deg2rad(80)  # between the viewing directions
_FACING = 0.1  # directions face a camera when their z is less
_CELLS = 80  # along each side of a table of support functions: about 2 degrees a cell
_BODY_POINTS = 3000  # at most, of which support functions are taken
_FEW = 8.0  # so many directions more would make a rotation's residual half as trustworthy


@dataclass(frozen=True)
class SearchGrid:
    """Rotations from a source to a target view, and where to look up its support function."""

    rotations: Float[Tensor, "N 3 3"]
    directions: Float[Tensor, "U 3"]
    """In the target's frame, facing its camera."""
    cells: Int[Tensor, "N U"]
    """The cell of R^T u in the source's table."""
    valid: Float[Tensor, "N U"]
    """1 where R^T u faces the source's camera."""
    inverse: Float[Tensor, "N 3 3"]
    """Of the normal matrix of t, with equal weights."""


@dataclass(frozen=True)
class Candidates:
    """For each of B pairs, the C best rotations of the search, best first."""

    rotations: Float[Tensor, "B C 3 3"]
    translations: Float[Tensor, "B C 3"]
    residuals: Float[Tensor, "B C"]
    """rms difference of the support functions, more where few directions are compared."""


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
def search_grid(device: torch.device) -> SearchGrid:
    """The rotations that turn the viewing direction by less than the limit."""
    rotations = super_fibonacci(_ROTATIONS)
    rotations = rotations[rotations[:, 2, 2] > np.cos(_TURN_LIMIT)]
    directions = fibonacci_sphere(_DIRECTIONS)
    directions = directions[directions[:, 2] < _FACING]
    R = torch.from_numpy(rotations.astype(np.float32)).to(device)
    u = torch.from_numpy(directions.astype(np.float32)).to(device)
    back = u @ R  # rows R^T u
    valid = (back[..., 2] < _FACING).float()
    normal = (valid @ _outer(u)).reshape(-1, 3, 3)
    return SearchGrid(R, u, cells_of(back), valid, _inverse(normal))


# -------------------------------------------------------------- support functions
# A table is an equal-area map (Lambert) of the directions that face the camera: the disc around
# (0, 0, -1), with `_CELLS` cells along each side of the square around it.
_TABLE_RADIUS = float(np.sqrt(2 + 2 * _FACING))


def table_directions(device: torch.device) -> Float[Tensor, "D 3"]:
    """The unit direction at the middle of each cell (those beyond the disc are never used)."""
    along = ((torch.arange(_CELLS, device=device) + 0.5) / _CELLS * 2 - 1) * _TABLE_RADIUS
    y, x = (axis.reshape(-1) for axis in torch.meshgrid(along, along, indexing="ij"))
    square = (x * x + y * y).clamp_max(4)
    sideways = (1 - square / 4).sqrt()
    directions = torch.stack([x * sideways, y * sideways, square / 2 - 1], -1)
    return directions / directions.norm(dim=-1, keepdim=True)


def cells_of(directions: Float[Tensor, "*n 3"]) -> Int[Tensor, "*n"]:
    """The cell that each unit direction lies in; the nearest one if it faces away."""
    x, y, z = directions.unbind(-1)
    stretch = (2 / (1 - z).clamp_min(1e-6)).sqrt() / _TABLE_RADIUS
    column, row = (
        ((axis * stretch + 1) * (_CELLS / 2)).long().clamp(0, _CELLS - 1) for axis in (x, y)
    )
    return row * _CELLS + column


def support_functions(
    points: Float[Tensor, "N 3"], directions: Float[Tensor, "D 3"]
) -> Float[Tensor, " D"]:
    """max over the points of direction . point."""
    return torch.cat([(part @ points.T).amax(1) for part in directions.split(256)])


@dataclass(frozen=True)
class Supports:
    """The partial support functions of all views, about their centres."""

    tables: Float[Tensor, "V D"]
    """Of the directions of `table_directions`."""
    values: Float[Tensor, "V U"]
    """Of the directions of the search grid."""


def view_supports(views: Views, grid: SearchGrid) -> Supports:
    """The support functions of each view's visible surface, rim included."""
    table = table_directions(views.device)
    bodies = [_body(views, index) - views.centres[index] for index in range(len(views))]
    return Supports(
        torch.stack([support_functions(body, table) for body in bodies]),
        torch.stack([support_functions(body, grid.directions) for body in bodies]),
    )


def _body(views: Views, index: int) -> Float[Tensor, "N 3"]:
    """Surface points of the pixels inside the mask, evenly thinned."""
    row, column = torch.nonzero(views.signed_distance[index] < 0, as_tuple=True)
    step = -(-len(row) // _BODY_POINTS)
    row, column = row[::step], column[::step]
    K = views.intrinsics[index]
    z = views.depth[index, row, column]
    x, y = (column - K[0, 2]) / K[0, 0] * z, (row - K[1, 2]) / K[1, 1] * z
    return torch.stack([x, y, z], -1)


# -------------------------------------------------------------------- the search
def search(
    views: Views,
    supports: Supports,
    grid: SearchGrid,
    source: int,
    targets: Int[Tensor, " B"],
    count: int,
) -> Candidates:
    """The best `count` rotations from one source view to each target, with their translations.

    Plain least squares ranks them as well as robust weights do.
    """
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
    """Residual and translation of every rotation for every target."""
    masked = grid.valid * table
    moments = grid.valid @ (values[:, :, None] * grid.directions).permute(1, 0, 2).flatten(1)
    right = moments.reshape(len(table), -1, 3) - (masked @ grid.directions)[:, None]
    t = right @ grid.inverse  # symmetric
    squares = grid.valid @ (values * values).T - 2 * masked @ values.T
    squares = squares + (masked * table).sum(1, keepdim=True) - (right * t).sum(-1)
    count = grid.valid.sum(1, keepdim=True)
    return (squares.clamp_min(0) / count).sqrt() * (1 + _FEW / count), t


def _outer(u: Float[Tensor, "U 3"]) -> Float[Tensor, "U 9"]:
    return (u[:, :, None] * u[:, None, :]).flatten(1)


def _inverse(symmetric: Float[Tensor, "N 3 3"]) -> Float[Tensor, "N 3 3"]:
    """Of positive semidefinite matrices, with a little added to their diagonals."""
    a, b, c = (symmetric + 1e-3 * torch.eye(3, device=symmetric.device)).unbind(1)
    cofactors = torch.stack(
        [torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -1
    )
    return cofactors / (a * cofactors[..., 0]).sum(-1)[:, None, None]
