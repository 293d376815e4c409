"""Tessellation of implicit shapes: triangle meshes, and grids of the free space around them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from skimage.measure import marching_cubes

from pmni.geometry.mesh import Mesh
from pmni.synthetic.shapes import Shape, normalised, scaled

_LEVELS = 4
"""Number of levels of the sampling grid, each twice as fine as the one before."""
_TRIAL_CELLS = 96
"""Cells along each side of the grid whose triangles are counted to choose the final resolution."""
_TOLERANCE = 1e-10
"""Largest absolute value of the shape at a point on its surface, in units of the shape."""
_NEWTON_STEPS = 24
"""Largest number of Newton steps onto the surface."""
_GRADIENT_STEPS = (0, 1, 8, 12, 16, 20)
"""Newton steps that compute the gradient anew; the others use the one before."""


@dataclass(frozen=True)
class FreeSpaceGrid:
    """Lower bounds of the distance to the surface on a grid of cubic cells."""

    corner: Float[np.ndarray, "3"]
    """The grid's lowest corner."""
    spacing: float
    """Side of a cell."""
    free: Float[np.ndarray, "X Y Z"]
    """Distance from ANY point of the cell within which there is no surface; 0 where the surface
    may be near."""

    def centred(self, centre: Float[np.ndarray, "3"], factor: float) -> "FreeSpaceGrid":
        """`centre` moved to the origin, then everything made `factor` times larger."""
        free = self.free * np.float32(factor)
        return FreeSpaceGrid((self.corner - centre) * factor, self.spacing * factor, free)


@dataclass(frozen=True)
class TessellatedShape:
    """A shape, its mesh and the free space around it, all in one frame and unit."""

    shape: Shape
    mesh: Mesh
    free_space: FreeSpaceGrid

    def scaled_to(self, radius: float) -> "TessellatedShape":
        """Centred (its bounding box) at the origin, and scaled into a sphere of this radius."""
        centre, factor = fit_to_sphere(self.mesh.vertices, radius)
        return TessellatedShape(
            scaled(self.shape, centre, factor),
            self.mesh.centred(centre, factor),
            self.free_space.centred(centre, factor),
        )


def fit_to_sphere(
    vertices: Float[np.ndarray, "N 3"], radius: float
) -> tuple[Float[np.ndarray, "3"], float]:
    """The centre of the vertices' bounding box, and the scale that fits them into a sphere."""
    centre = (vertices.min(0) + vertices.max(0)) / 2
    return centre, float(radius / np.linalg.norm(vertices - centre, axis=1).max())


def tessellate(shape: Shape, half_side: float, faces: int) -> TessellatedShape:
    """The shape with a mesh of about `faces` triangles.

    The shape lies in the cube |x|, |y|, |z| < `half_side`. The number of triangles grows with the
    square of the grid's resolution; those of a coarse one are counted first.
    """
    trial, _ = _sample(shape, half_side, _TRIAL_CELLS)
    refinement = np.sqrt(faces / len(marching_cubes(trial, 0.0)[1]))
    step = 2 ** (_LEVELS - 1)
    cells = max(_TRIAL_CELLS, step * round(_TRIAL_CELLS * refinement / step))
    values, free_space = _sample(shape, half_side, cells)
    return TessellatedShape(shape, _mesh(shape, values, free_space), free_space)


def _sample(shape: Shape, half_side: float, cells: int) -> tuple[np.ndarray, FreeSpaceGrid]:
    """Values at cell centres, exact in cells that the surface may cross and of the right sign
    elsewhere, and the free space around all cells.

    Coarse to fine: where |value| > lipschitz * half a cell's diagonal, the surface does not
    cross the cell, and its parts need no samples of their own.
    """
    count = cells >> (_LEVELS - 1)
    spacing = 2 * half_side / count
    first = np.zeros(3, int)
    values = np.zeros((count, count, count), np.float32)
    free = np.zeros_like(values)
    crossed = np.ones(values.shape, bool)
    for level in range(_LEVELS):
        if level > 0:
            # keep the box of cells that matter, and two more on each side; halve the cells
            occupied = np.argwhere(crossed)
            low = np.maximum(occupied.min(0) - 2, 0)
            box = tuple(slice(a, b) for a, b in zip(low, occupied.max(0) + 3, strict=True))
            values, free, crossed = (_split_cells(array[box]) for array in (values, free, crossed))
            first, spacing = 2 * (first + low), spacing / 2
        indices = np.argwhere(crossed)
        sampled = shape((first + indices + 0.5) * spacing - half_side)
        reach = np.abs(sampled) / shape.lipschitz - spacing * np.sqrt(3) / 2
        values[crossed] = sampled
        free[crossed] = np.maximum(reach - 1e-6 * half_side, 0)  # rounding to float32
        crossed[crossed] = reach <= 0
        if not crossed.any():
            raise ValueError("the shape has no surface in its box")
    return values, FreeSpaceGrid(first * spacing - half_side, spacing, free)


def _split_cells(array: np.ndarray) -> np.ndarray:
    """Every cell as 2 x 2 x 2 cells."""
    for axis in range(3):
        array = np.repeat(array, 2, axis=axis)
    return array


def _mesh(shape: Shape, values: np.ndarray, grid: FreeSpaceGrid) -> Mesh:
    """Marching cubes, with the vertices spread evenly and moved onto the exact surface."""
    indices, faces, _, _ = marching_cubes(values, 0.0, gradient_direction="descent")
    vertices = grid.corner + (indices.astype(np.float64) + 0.5) * grid.spacing
    faces = faces.astype(np.int64)
    vertices = project_to_surface(shape, _relaxed(vertices, faces), grid.spacing)
    return Mesh(vertices, faces, exact_normals=normalised(shape.gradient(vertices)))


def _relaxed(
    vertices: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "F 3"]
) -> Float[np.ndarray, "N 3"]:
    """Vertices after two steps of tangential Laplacian smoothing.

    Marching cubes makes slivers; without them the same number of triangles is closer to a curved
    surface by a quarter, and normals computed from the triangles are twice as good.
    """
    count = len(vertices)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    joined = sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count)).tocsr()
    joined = ((joined + joined.T) > 0).astype(np.float64)
    neighbours = np.asarray(joined.sum(1))
    corners = sparse.csr_matrix(
        (np.ones(faces.size), (faces.ravel(), np.repeat(np.arange(len(faces)), 3))),
        shape=(count, len(faces)),
    )
    for _ in range(2):
        a, b, c = (vertices[faces[:, corner]] for corner in range(3))
        normals = corners @ np.cross(b - a, c - a)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
        move = joined @ vertices / neighbours - vertices
        vertices = vertices + move - normals * (normals * move).sum(1, keepdims=True)
    return vertices


def project_to_surface(
    shape: Shape, points: Float[np.ndarray, "N 3"], longest_step: float
) -> Float[np.ndarray, "N 3"]:
    """Points close to the surface moved onto it by Newton steps along the gradient."""
    points = points.copy()
    active = np.arange(len(points))
    steps = np.zeros_like(points)
    for iteration in range(_NEWTON_STEPS):
        values = shape(points[active])
        off = np.abs(values) > _TOLERANCE * shape.unit
        active, values = active[off], values[off]
        if len(active) == 0:
            break
        if iteration in _GRADIENT_STEPS:
            gradients = shape.gradient(points[active])
            steps[active] = gradients / (gradients**2).sum(1, keepdims=True)
        move = -values[:, None] * steps[active]
        length = np.linalg.norm(move, axis=1, keepdims=True)
        points[active] += move * np.minimum(1, longest_step / np.maximum(length, 1e-300))
    return points
