"""A reconstruction beside the ground truth, in its frame: what metrics are computed from."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from pmni.evaluation.distances import SurfaceErrors
from pmni.evaluation.pose_errors import PoseComparison
from pmni.geometry.mesh import Mesh
from pmni.geometry.ray_casting import Hits, Rays


@dataclass(frozen=True)
class GroundTruth:
    """The ground-truth surface as the reference cameras see it, dataset units."""

    mesh: Mesh
    hits: Hits
    """First hits of the rays through all pixels inside the masks."""
    tree: KDTree
    """k-d tree of the hits' points."""


@dataclass(frozen=True)
class Comparison:
    """A reconstruction after its alignment, and what it is compared with; dataset units.

    Without a ground-truth mesh and reference poses the rays are those of the estimated cameras, and
    the normals are compared with the capture's.
    """

    mesh: Mesh
    """The reconstructed mesh in the reference's frame; in its own without a ground truth."""
    rays: Rays
    """The rays through all pixels inside the masks."""
    hits: Hits
    """First hits of the rays on the mesh."""
    ground_truth: GroundTruth | None
    """The surface that the mesh is compared with."""
    surface_errors: SurfaceErrors | None
    """Distances between the points of both surfaces; None without a ground truth."""
    diameter: float | None
    """Largest distance between two vertices of the ground-truth mesh."""
    normal_error_deg: Float[np.ndarray, " P"]
    """Angle between the normals of each ray, degrees; NaN where the mesh is missed, or where no
    normal is known."""
    held_out: Bool[np.ndarray, " P"]
    """Whether each ray belongs to a held-out view."""
    poses: PoseComparison
    """Errors of the camera poses."""
