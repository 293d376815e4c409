"""Triangles as tensors, and their connected components."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

_AREA_UNITS = 2.0**40
"""Units of the fixed-point areas that are summed up: integer sums have no order."""


@dataclass(frozen=True)
class Triangles:
    """A triangle mesh; corners are counter-clockwise seen from outside."""

    vertices: Float64[Tensor, "N 3"]
    """Positions in [-1, 1]^3."""
    faces: Int[Tensor, "F 3"]

    def select_faces(self, selected: Bool[Tensor, " F"]) -> "Triangles":
        """The selected faces and their vertices, in their present order."""
        faces = self.faces[selected]
        used = torch.zeros(len(self.vertices), dtype=torch.bool, device=faces.device)
        used[faces.reshape(-1).long()] = True
        number = used.cumsum(0).to(faces.dtype) - 1
        return Triangles(self.vertices[used], number[faces.long()])

    def areas(self) -> Float64[Tensor, " F"]:
        """Areas of the faces."""
        a, b, c = (self.vertices[corner.long()] for corner in self.faces.T)
        return torch.linalg.cross(b - a, c - a).norm(dim=1) / 2


def largest_component(triangles: Triangles) -> tuple[Triangles, int]:
    """The connected component of the largest area, and how many components there were."""
    label = components(triangles.faces, len(triangles.vertices))[triangles.faces[:, 0].long()]
    roots, label = label.unique(return_inverse=True)
    if len(roots) == 1:
        return triangles, 1
    areas = triangles.areas()
    shares = (areas / areas.sum() * _AREA_UNITS).long()
    share = torch.zeros(len(roots), dtype=torch.int64, device=label.device)
    share.index_add_(0, label, shares)
    return triangles.select_faces(label == share.argmax()), len(roots)


def components(faces: Int[Tensor, "F 3"], count: int) -> Int[Tensor, " N"]:
    """For each of `count` vertices, the lowest vertex that it is connected to.

    Every round hangs roots under lower neighbouring roots, then flattens the trees (Shiloach and
    Vishkin, 1982; with minima instead of arbitrary writes).
    """
    a, b, c = faces.T.long()
    start, end = torch.cat([a, a]), torch.cat([b, c])
    parent = torch.arange(count, device=faces.device)
    while len(start):
        low, high = torch.minimum(start, end), torch.maximum(start, end)
        parent.scatter_reduce_(0, high, low, "amin")
        while True:
            grandparent = parent[parent]
            if torch.equal(grandparent, parent):
                break
            parent = grandparent
        start, end = parent[start], parent[end]
        apart = start != end
        start, end = start[apart], end[apart]
    return parent
