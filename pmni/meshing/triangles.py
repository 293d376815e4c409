"""Triangles on the device where they were made: components, and where they end."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

_UNITS = 2.0**40


@dataclass(frozen=True)
class Triangles:
    """Corners counter-clockwise seen from outside."""

    vertices: Float64[Tensor, "N 3"]
    """In [-1, 1]^3."""
    faces: Int[Tensor, "F 3"]

    def of_faces(self, chosen: Bool[Tensor, " F"]) -> "Triangles":
        """Some faces and their vertices, in the order in which they are."""
        faces = self.faces[chosen]
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
    # integers: their sums do not depend on the order
    shares = (areas / areas.sum() * _UNITS).long()
    share = torch.zeros(len(roots), dtype=torch.int64, device=label.device)
    share.index_add_(0, label, shares)
    return triangles.of_faces(label == share.argmax()), len(roots)


def components(faces: Int[Tensor, "F 3"], count: int) -> Int[Tensor, " N"]:
    """For each of `count` vertices, the lowest vertex that it is connected to.

    Every round hangs roots under lower neighbouring roots, then flattens the trees (Shiloach and
    Vishkin, 1982; with minima instead of arbitrary writes).
    """
    a, b, c = faces.T.long()
    one, other = torch.cat([a, a]), torch.cat([b, c])
    parent = torch.arange(count, device=faces.device)
    while len(one):
        low, high = torch.minimum(one, other), torch.maximum(one, other)
        parent.scatter_reduce_(0, high, low, "amin")
        while True:
            grandparent = parent[parent]
            if torch.equal(grandparent, parent):
                break
            parent = grandparent
        one, other = parent[one], parent[other]
        apart = one != other
        one, other = one[apart], other[apart]
    return parent
