"""Camera poses on disk: JSON with one 4x4 camera-to-world matrix a view."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pmni.errors import InputError
from pmni.io.atomic import write_text

FRAME = "normalised world; OpenCV cameras (x right, y down, z forward)"


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


def write_poses(path: Path, poses: Poses) -> None:
    """Write poses as JSON, atomically."""
    matrices = {view: c2w.tolist() for view, c2w in zip(poses.views, poses.c2w, strict=True)}
    content = {"frame": FRAME, **poses.information, "camera_to_world": matrices}
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_poses(path: Path) -> Poses:
    """Read poses written by `write_poses`; raises InputError naming file and view."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        matrices = content.pop("camera_to_world")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError):
        raise InputError(f"{path}: not a pose file ('camera_to_world' expected)") from None
    content.pop("frame", None)
    c2w = np.zeros((len(matrices), 4, 4))
    for index, (view, matrix) in enumerate(matrices.items()):
        c2w[index] = check_rigid(np.asarray(matrix, float), f"{path}: view {view}")
    return Poses(tuple(matrices), c2w, content)


def check_rigid(matrix: np.ndarray, where: str, tolerance: float = 1e-3) -> np.ndarray:
    """`matrix` if it is a finite rigid 4x4 transform, else InputError saying `where`."""
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"{where}: the pose is not a finite 4x4 matrix")
    rotation = matrix[:3, :3]
    orthogonal = np.abs(rotation @ rotation.T - np.eye(3)).max() < tolerance
    if not orthogonal or np.linalg.det(rotation) < 0 or np.abs(matrix[3] - [0, 0, 0, 1]).max() > 0:
        raise InputError(f"{where}: the pose is not a proper rotation and translation")
    return matrix
