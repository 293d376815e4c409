"""The unknowns of refinement, and how an increment changes them."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.refinement import NarrowBandSettings
from pmni.geometry.rotations import exp_so3, nearest_rotation
from pmni.sdf.narrow_band import NarrowBandSDF, rebuild_band, reinitialize

ROTATION = slice(0, 3)
"""Columns of a view's left perturbation: rotation about the origin, radians."""
TRANSLATION = slice(3, 6)
"""Columns of a view's left perturbation: translation, normalised units."""
BIAS = slice(6, 15)
"""Columns of a view's bias field (3 x 3, row by row), radians."""
OFFSET = slice(15, 16)
"""Column of a view's contour offset, normalised units."""
VIEW_UNKNOWNS = 16
"""Unknowns of each view."""
NORMAL_TILT_BIAS = 0
"""Column of the tilt of all normals, radians."""
LOG_FOCAL = 1
"""Column of the logarithm of the focal lengths' common factor."""
SHARED_UNKNOWNS = 2
"""Unknowns that all views share."""


@dataclass(frozen=True)
class Increment:
    """A change of all unknowns."""

    surface: Float[Tensor, " N"]
    """Change of the values at the nodes of the sparse grid."""
    views: Float[Tensor, "V 16"]
    """Change of each view's unknowns."""
    shared: Float[Tensor, "2"]
    """Change of the unknowns that all views share."""

    def scaled(self, factor: float) -> "Increment":
        """The increment times a factor."""
        return Increment(self.surface * factor, self.views * factor, self.shared * factor)


@dataclass(frozen=True)
class State:
    """The surface, the cameras, and the systematic errors of normals and masks."""

    surface: NarrowBandSDF
    rotations: Float[Tensor, "V 3 3"]
    """Rotations camera to world, float64."""
    centres: Float[Tensor, "V 3"]
    """Camera centres, world, float64."""
    bias: Float[Tensor, "V 3 3"]
    """Bias fields: a view's normals are turned by bias @ (1, u, v), radians, where (u, v) is the
    pixel's offset from the principal point in units of the object's size."""
    normal_tilt_bias: Float[Tensor, ""]
    """Normals are tilted away from the camera by this times sin(angle to the camera), radians."""
    offsets: Float[Tensor, " V"]
    """Distance by which each mask's contour lies outside the true one, normalised units."""
    log_focal: Float[Tensor, ""]
    """Logarithm of the common factor of the focal lengths."""

    @staticmethod
    def start(surface: NarrowBandSDF, c2w: Float[Tensor, "V 4 4"]) -> "State":
        """The state without systematic errors."""
        zero = torch.zeros((), device=c2w.device)
        return State(
            surface,
            c2w[:, :3, :3].double(),
            c2w[:, :3, 3].double(),
            zero.expand(len(c2w), 3, 3),
            zero,
            zero.expand(len(c2w)),
            zero,
        )

    def c2w(self) -> Float[Tensor, "V 4 4"]:
        """The camera-to-world matrices, float64."""
        matrices = torch.eye(4, dtype=torch.float64, device=self.centres.device)
        matrices = matrices.repeat(len(self.centres), 1, 1)
        matrices[:, :3, :3], matrices[:, :3, 3] = self.rotations, self.centres
        return matrices

    def with_poses(self, c2w: Float[Tensor, "V 4 4"]) -> "State":
        """The same state with other camera poses."""
        return replace(self, rotations=c2w[:, :3, :3], centres=c2w[:, :3, 3])

    def retract(self, step: Increment, max_step_cells: float, band: NarrowBandSettings) -> "State":
        """The state after an increment; the surface stays a distance function.

        Values of the surface change by at most `max_step_cells` cells.
        """
        sdf = self.surface
        limit = max_step_cells * sdf.grid.spacing
        values = sdf.values + step.surface.clamp(-limit, limit)
        changed = NarrowBandSDF(sdf.grid, values, sdf.background)
        surface = rebuild_band(reinitialize(changed, band.step_sweeps, band), band)
        return replace(self.retract_views(step), surface=surface)

    def retract_views(self, step: Increment) -> "State":
        """The state after an increment of all unknowns but the surface."""
        # Of matrices as small as these a processor is quicker.
        turn = exp_so3(step.views[:, ROTATION].double().cpu())
        rotations = nearest_rotation(turn @ self.rotations.cpu()).to(self.centres)
        centres = (turn.to(self.centres) @ self.centres[..., None])[..., 0]
        return replace(
            self,
            rotations=rotations,
            centres=centres + step.views[:, TRANSLATION],
            bias=self.bias + step.views[:, BIAS].view(-1, 3, 3),
            normal_tilt_bias=self.normal_tilt_bias + step.shared[NORMAL_TILT_BIAS],
            offsets=self.offsets + step.views[:, OFFSET][:, 0],
            log_focal=self.log_focal + step.shared[LOG_FOCAL],
        )
