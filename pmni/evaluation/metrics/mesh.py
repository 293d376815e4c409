"""Metrics of the mesh by itself."""

from pmni.evaluation.metrics.quantity import Metric
from pmni.geometry.mesh import open_edges

VERTICES = Metric(
    key="vertices",
    label="Vertices",
    format=",.0f",
    meaning="Number of vertices of the mesh.",
    is_count=True,
    leading=True,
    compute=lambda comparison: len(comparison.mesh.vertices),
)
WATERTIGHT = Metric(
    key="watertight",
    label="Watertight",
    meaning="Whether each edge of the mesh is shared by two triangles that run along it in "
    "opposite directions.",
    leading=True,
    compute=lambda comparison: len(open_edges(comparison.mesh)) == 0,
)
