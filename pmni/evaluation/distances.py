"""Distances between point sets and to triangles, angles between vectors, and the diameter."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree, distance


@dataclass(frozen=True)
class SurfaceErrors:
    """Distances between the points of two surfaces, each to the nearest one of the other."""

    to_ground_truth: Float[np.ndarray, " N"]
    """Distance of each of the mesh's points."""
    to_mesh: Float[np.ndarray, " M"]
    """Distance of each of the ground truth's points."""

    @property
    def accuracy(self) -> float:
        """Mean distance of the mesh's points to the ground truth's."""
        return float(self.to_ground_truth.mean())

    @property
    def completeness(self) -> float:
        """Mean distance of the ground truth's points to the mesh's."""
        return float(self.to_mesh.mean())

    @property
    def chamfer(self) -> float:
        """Mean of accuracy and completeness."""
        return (self.accuracy + self.completeness) / 2

    def fscore(self, threshold: float) -> float:
        """Harmonic mean of the fractions of either's points that are nearer than `threshold`."""
        precision = float((self.to_ground_truth < threshold).mean())
        recall = float((self.to_mesh < threshold).mean())
        return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def surface_errors(mesh: KDTree, ground_truth: KDTree) -> SurfaceErrors:
    """Distances between the point sets of two trees."""
    return SurfaceErrors(
        nearest_distance(ground_truth, mesh.data), nearest_distance(mesh, ground_truth.data)
    )


def point_tree(points: Float[np.ndarray, "N 3"]) -> KDTree:
    """A tree of points along image rows, which are spread evenly: it need not be balanced."""
    return KDTree(points, leafsize=64, compact_nodes=False, balanced_tree=False)


def nearest_distance(
    tree: KDTree, points: Float[np.ndarray, "N 3"], within: float = np.inf
) -> Float[np.ndarray, " N"]:
    """Distance of each point to the nearest one in the tree; infinite if none is `within`."""
    return tree.query(points, distance_upper_bound=within, workers=-1)[0]


def angle_deg(a: Float[np.ndarray, "N 3"], b: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
    """Angles between vectors, degrees; accurate for small ones too."""
    sine = np.linalg.norm(np.cross(a, b), axis=1)
    return np.rad2deg(np.arctan2(sine, np.einsum("ij,ij->i", a, b)))


def distance_to_triangles(
    points: Float[np.ndarray, "N 3"], triangles: Float[np.ndarray, "N 3 3"]
) -> Float[np.ndarray, " N"]:
    """Distance of each point to its triangle: to the plane inside, else to the nearest side."""
    a, b, c = np.moveaxis(triangles, 1, 0)
    normal = np.cross(b - a, c - a)
    squared = np.einsum("ij,ij->i", normal, normal)
    height = np.einsum("ij,ij->i", points - a, normal)
    inside = squared > 0
    sides = []
    for start, end in ((a, b), (b, c), (c, a)):
        side, offset = end - start, points - start
        inside &= np.einsum("ij,ij->i", np.cross(side, offset), normal) >= 0
        length = np.einsum("ij,ij->i", side, side)
        along = np.einsum("ij,ij->i", offset, side) / np.where(length > 0, length, 1)
        sides.append(np.linalg.norm(offset - np.clip(along, 0, 1)[:, None] * side, axis=1))
    plane = np.abs(height) / np.sqrt(np.where(inside, squared, 1))
    return np.where(inside, plane, np.min(sides, axis=0))


def distance_to_surface(
    points: Float[np.ndarray, "N 3"],
    samples: KDTree,
    triangle: Int[np.ndarray, " S"],
    triangles: Float[np.ndarray, "T 3 3"],
) -> Float[np.ndarray, " N"]:
    """Distance of points to the triangles that the three nearest samples lie on.

    `triangle` gives the triangle of each sample in the tree.
    """
    _, index = samples.query(points, k=min(3, samples.n), workers=-1)
    columns = index.reshape(len(points), -1).T
    return np.min([distance_to_triangles(points, triangles[triangle[i]]) for i in columns], axis=0)


def diameter(points: Float[np.ndarray, "N 3"], cells: int = 16) -> float:
    """The largest distance between two of the points.

    Points are grouped by the cells of a grid, `cells` along the longest side. Pairs of cells are
    measured in the order of their bounding boxes' largest distance, until no other pair can exceed
    the largest distance between points so far.
    """
    lowest, side = points.min(0), np.ptp(points, axis=0).max()
    cell = ((points - lowest) * (cells / side if side > 0 else 0)).astype(int)
    owner = np.ravel_multi_index(tuple(cell.T), (cells + 1,) * 3)
    order = np.argsort(owner, kind="stable")
    first = np.flatnonzero(np.diff(owner[order], prepend=-1))
    groups = np.split(points[order], first[1:])
    lower, upper = (f.reduceat(points[order], first) for f in (np.minimum, np.maximum))
    one, other = np.triu_indices(len(groups))
    reach = np.linalg.norm(np.maximum(upper[one] - lower[other], upper[other] - lower[one]), axis=1)
    largest = 0.0
    for pair in np.argsort(-reach):
        if reach[pair] < largest:
            break
        apart = distance.cdist(groups[one[pair]], groups[other[pair]])
        largest = max(largest, float(apart.max()))
    return largest
