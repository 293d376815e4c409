"""From a signed distance function to one triangle mesh."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pmni.config.extensions import EXTRACTORS
from pmni.config.meshing import MeshSettings
from pmni.errors import InputError
from pmni.geometry.mesh import Mesh, open_edges
from pmni.meshing.adaptive_sampling import sample_near_surface
from pmni.meshing.extractor import Extractor
from pmni.meshing.grid_surfaces import evaluate_at_nodes, is_observed, narrow_band
from pmni.meshing.node_cache import Evaluate
from pmni.meshing.triangles import Triangles, largest_component
from pmni.sdf.sdf import SDF

CPU = torch.device("cpu")
BORDER_TOLERANCE = 1e-6
"""Largest distance of a vertex from the border of the box [-1, 1]^3 to count as on it."""


@dataclass(frozen=True)
class Extraction:
    """A mesh and statistics of its extraction."""

    mesh: Mesh
    resolution: int
    """Grid cells along a side of the box."""
    evaluations: int
    """Number of values of the function that were computed."""
    components: int
    """Connected components before any were dropped."""
    box_edges: int
    """Edges along which the surface leaves the box; 0 if it lies inside."""


def extract_mesh(
    surface: SDF,
    settings: MeshSettings | None = None,
    scale: float = 1.0,
    offset: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
    device: torch.device = CPU,
) -> Mesh:
    """The zero level of a signed distance function in [-1, 1]^3, at scale * x + offset.

    A surface on a grid is meshed on the nodes of that grid, and its mesh says which vertices
    cameras have observed. Raises InputError when there is no surface, DivergenceError for values
    that are not finite.
    """
    return extract(surface, settings or MeshSettings(), scale, offset, device).mesh


def extract(
    surface: SDF,
    settings: MeshSettings,
    scale: float = 1.0,
    offset: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
    device: torch.device = CPU,
) -> Extraction:
    """`extract_mesh` with the statistics of the extraction."""
    band = narrow_band(surface)
    resolution = settings.resolution if band is None else band.grid.cells
    found = extract_zero_level(evaluate_at_nodes(surface), resolution, settings, device)
    vertices = found.mesh.vertices
    observed = None
    if band is not None:
        points = torch.from_numpy(vertices).float().to(device)
        observed = is_observed(band, points).cpu().numpy()
    mesh = Mesh(scale * vertices + np.asarray(offset), found.mesh.faces, observed)
    return replace(found, mesh=mesh)


def extract_zero_level(
    evaluate: Evaluate, resolution: int, settings: MeshSettings, device: torch.device = CPU
) -> Extraction:
    """The zero level of `evaluate` ((N, 3) -> (N,), positive outside) in [-1, 1]^3.

    Raises InputError when there is no surface, DivergenceError for values that are not finite.
    """
    extractor: Extractor = EXTRACTORS[settings.extractor]()
    grid = sample_near_surface(evaluate, resolution, settings.sampling, device)
    if grid.cells.shape[1] == 0:
        raise InputError(
            "mesh: no surface: the model has the same sign everywhere in the box "
            "(training has diverged, or the resolution is too low for the object)"
        )
    triangles = extractor(grid.without_zeros())
    largest, components = largest_component(triangles)
    triangles = triangles if settings.keep == "all" else largest
    mesh, box_edges = _to_mesh(triangles), _count_box_edges(triangles)
    return Extraction(mesh, resolution, grid.evaluations, components, box_edges)


def _count_box_edges(triangles: Triangles) -> int:
    """Edges in the border of the box with a face on one side only."""
    on_border = (triangles.vertices.abs() > 1 - BORDER_TOLERANCE).any(1)
    # the faces with such edges, and all their neighbours there
    faces = on_border[triangles.faces.long()].sum(1) >= 2
    border = _to_mesh(triangles.select_faces(faces))
    ends = border.vertices[open_edges(border)]
    return int((abs(ends) > 1 - BORDER_TOLERANCE).any(2).all(1).sum())


def _to_mesh(triangles: Triangles) -> Mesh:
    return Mesh(triangles.vertices.cpu().numpy(), triangles.faces.cpu().numpy())
