"""The unknowns of refinement, and how an increment changes them."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.sdf.narrow_band import NarrowBandSDF, rebuild_band, reinitialize

ROTATION, TRANSLATION, BIAS, OFFSET = slice(0, 3), slice(3, 6), slice(6, 15), slice(15, 16)
VIEW_UNKNOWNS = 16
"""Of each view: the pose's left perturbation (rotation about the origin, then translation), the
normal bias, the contour offset."""
NORMAL_TILT_BIAS, LOG_FOCAL = 0, 1
SHARED_UNKNOWNS = 2
"""Of all views together."""
LONGEST_STEP = 3.0
"""Cells that the surface moves at most in an outer iteration."""


@dataclass(frozen=True)
class Increment:
    """A change of all unknowns."""

    surface: Float[Tensor, " N"]
    """Of the values at the nodes of the sparse grid."""
    views: Float[Tensor, "V 16"]
    shared: Float[Tensor, "2"]

    def scaled(self, factor: float) -> "Increment":
        """A part of it."""
        return Increment(self.surface * factor, self.views * factor, self.shared * factor)


@dataclass(frozen=True)
class State:
    """The surface, the cameras, and what is wrong with normals and masks."""

    surface: NarrowBandSDF
    rotations: Float[Tensor, "V 3 3"]
    """Camera to world, float64."""
    centres: Float[Tensor, "V 3"]
    """Of the cameras, float64."""
    bias: Float[Tensor, "V 3 3"]
    """A view's normals are turned by bias @ (1, u, v), radians, where u and v are the pixel's
    offset from the principal point in units of the object's size."""
    flattening: Float[Tensor, ""]
    """Normals are turned away from the camera by flattening * sin(angle to the camera), radians."""
    offsets: Float[Tensor, " V"]
    """How far outside of the true contour each mask's lies, normalised units."""
    log_focal: Float[Tensor, ""]
    """Logarithm of the common factor of the focal lengths."""

    @staticmethod
    def start(surface: NarrowBandSDF, c2w: Float[Tensor, "V 4 4"]) -> "State":
        """Nothing wrong with normals and masks."""
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

    def retract(self, step: Increment, sweeps: int) -> "State":
        """All unknowns changed by an increment; the surface stays a distance function."""
        sdf = self.surface
        limit = LONGEST_STEP * sdf.grid.spacing
        values = sdf.values + step.surface.clamp(-limit, limit)
        surface = rebuild_band(
            reinitialize(NarrowBandSDF(sdf.grid, values, sdf.background), sweeps)
        )
        # Of matrices as small as these a processor is quicker.
        turn = torch.linalg.matrix_exp(cross_matrix(step.views[:, ROTATION].double().cpu()))
        u, _, vt = torch.linalg.svd(turn @ self.rotations.cpu())
        turn, rotations = turn.to(self.centres), (u @ vt).to(self.centres)
        centres = (turn @ self.centres[..., None])[..., 0] + step.views[:, TRANSLATION]
        return replace(
            self,
            surface=surface,
            rotations=rotations,
            centres=centres,
            bias=self.bias + step.views[:, BIAS].view(-1, 3, 3),
            flattening=self.flattening + step.shared[NORMAL_TILT_BIAS],
            offsets=self.offsets + step.views[:, OFFSET][:, 0],
            log_focal=self.log_focal + step.shared[LOG_FOCAL],
        )


def cross_matrix(v: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 3"]:
    """[v] with [v] w = v x w."""
    zero = torch.zeros_like(v[..., 0])
    x, y, z = v.unbind(-1)
    rows = [torch.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return torch.stack(rows, dim=-2)
