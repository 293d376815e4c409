"""Camera poses of the views of a capture."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from pmni.errors import InputError


@dataclass(frozen=True)
class Poses:
    """Camera-to-world matrices of some views, (V, 4, 4), in the normalised world."""

    views: tuple[str, ...]
    c2w: Float[np.ndarray, "V 4 4"]
    information: dict[str, Any] = field(default_factory=dict)
    """What the method says of its result (method, confidence, iteration, ...)."""

    def select(self, views: Sequence[str]) -> Float[np.ndarray, "N 4 4"]:
        """The matrices of the named views, in that order. Raises InputError for an unknown view."""
        missing = [view for view in views if view not in self.views]
        if missing:
            raise InputError(f"no pose for view {missing[0]}; poses are there for {self.views}")
        return self.c2w[[self.views.index(view) for view in views]]


def check_rigid(matrix: np.ndarray, where: str, tolerance: float = 1e-3) -> np.ndarray:
    """`matrix` if it is a finite rigid 4x4 transform, else InputError saying `where`."""
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"{where}: the pose is not a finite 4x4 matrix")
    rotation = matrix[:3, :3]
    orthogonal = np.abs(rotation @ rotation.T - np.eye(3)).max() < tolerance
    if not orthogonal or np.linalg.det(rotation) < 0 or np.abs(matrix[3] - [0, 0, 0, 1]).max() > 0:
        raise InputError(f"{where}: the pose is not a proper rotation and translation")
    return matrix
