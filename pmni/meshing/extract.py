"""From a signed distance function to one triangle mesh."""

from dataclasses import dataclass

import torch

from pmni.errors import InputError
from pmni.geometry.mesh import Mesh, open_edges
from pmni.meshing.marching_cubes import Mesher
from pmni.meshing.node_tiles import Evaluate
from pmni.meshing.sampling import sample
from pmni.meshing.triangles import Triangles, largest_component


@dataclass(frozen=True)
class Extraction:
    """A mesh in normalised units and how it came about."""

    mesh: Mesh
    evaluations: int
    """Values of the function that were computed."""
    components: int
    """Connected components before any were dropped."""
    box_edges: int
    """Edges along which the surface leaves the box; 0 if it lies inside."""


def extract(
    evaluate: Evaluate, resolution: int, mesher: Mesher, keep_all: bool, device: torch.device
) -> Extraction:
    """The zero level of `evaluate` ((N, 3) -> (N,), positive outside) in [-1, 1]^3.

    Raises InputError when there is no surface, DivergenceError for values that are not finite.
    """
    grid = sample(evaluate, resolution, device)
    if grid.cells.shape[1] == 0:
        raise InputError(
            "mesh: no surface: the model has the same sign everywhere in the box "
            "(training has diverged, or the resolution is too low for the object)"
        )
    triangles = mesher(grid.without_zeros())
    kept, components = largest_component(triangles)
    triangles = triangles if keep_all else kept
    return Extraction(_on_cpu(triangles), grid.evaluations, components, _box_edges(triangles))


def _box_edges(triangles: Triangles) -> int:
    """Edges in the border of the box with a face on one side only."""
    at_border = (triangles.vertices.abs() > 1 - 1e-6).any(1)
    # the faces with such edges, and all their neighbours there
    faces = at_border[triangles.faces.long()].sum(1) >= 2
    border = _on_cpu(triangles.of_faces(faces))
    ends = border.vertices[open_edges(border)]
    return int((abs(ends) > 1 - 1e-6).any(2).all(1).sum())


def _on_cpu(triangles: Triangles) -> Mesh:
    return Mesh(triangles.vertices.cpu().numpy(), triangles.faces.cpu().numpy())
