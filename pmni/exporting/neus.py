"""`cameras_sphere.npz` of NeuS, also read by SuperNormal, PMNI and `pmni prepare`.

    world_mat_<i>   K [R | t], 4 x 4: dataset world to pixels, pixel centres at integers
    scale_mat_<i>   the sphere around the object: X_dataset = scale_mat X_normalised
    *_inv_<i>       their inverses

<i> is the number in the view's name, so that the file fits the images it was made from; NeuS
itself counts images from 0. Views whose names hold no number are counted from 0.
"""

from pathlib import Path

import numpy as np

from pmni.data.readers.files import view_keys
from pmni.exporting.exporter import Exporter
from pmni.exporting.scene import Cameras
from pmni.io.atomic import atomic_file


def view_numbers(views: tuple[str, ...]) -> list[int]:
    """The number of each view in the file."""
    keys = [key for key in view_keys(views) if isinstance(key, int)]
    return keys if len(set(keys)) == len(views) else list(range(len(views)))


def write_cameras_sphere(path: Path, cameras: Cameras) -> None:
    """Write the cameras, and the sphere that normalises the object."""
    scale_mat = np.diag([cameras.scale] * 3 + [1.0])
    scale_mat[:3, 3] = cameras.offset
    matrices: dict[str, np.ndarray] = {}
    K = np.eye(4)
    for number, intrinsics, w2c in zip(
        view_numbers(cameras.views), cameras.intrinsics, cameras.w2c, strict=True
    ):
        K[:3, :3] = intrinsics
        for name, matrix in (("world_mat", K @ w2c), ("scale_mat", scale_mat)):
            matrices[f"{name}_{number}"] = matrix
            matrices[f"{name}_inv_{number}"] = np.linalg.inv(matrix)
    with atomic_file(path) as temporary:
        np.savez(temporary, **matrices)  # type: ignore[arg-type]


EXPORTER = Exporter(
    output="cameras_sphere.npz",
    software="NeuS, SuperNormal, PMNI, `pmni prepare`",
    omits="the size of the images, which these programs take from the images",
    write=lambda folder, scene: write_cameras_sphere(folder / "cameras_sphere.npz", scene.cameras),
)
