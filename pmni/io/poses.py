"""Camera poses on disk: JSON with one 4x4 camera-to-world matrix a view."""

import json
from pathlib import Path

import numpy as np

from pmni.errors import InputError
from pmni.geometry.poses import Poses, check_rigid
from pmni.io.atomic import write_text

FRAME = "normalised world; OpenCV cameras (x right, y down, z forward)"
"""Description of the frame in every file of poses."""


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
