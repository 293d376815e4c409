"""The custom layout: normal maps, masks and intrinsics of one's own object.

<normals>/<view>.exr   or 16-bit .png (n = rgb / 65535 * 2 - 1) or .npy;
                       camera space: x right, y up, z towards the camera
masks/<view>.png       (or mask/)
K.txt                  3 x 3, or K/<view>.txt for each view
poses.json             reference poses (optional): {"camera_to_world": {"<view>": 4 x 4}},
                       OpenCV cameras, in any unit
mesh_Gt.ply            ground truth in the same unit (optional)

`poses.json` and `mesh_Gt.ply` may also be in the subfolder `gt`.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from pmni.data.readers.files import (
    Key,
    check_same_views,
    find_folder,
    find_ground_truth,
    list_views,
    read_intrinsics,
    read_mesh,
    view_keys,
)
from pmni.data.readers.raw import RawCapture, read_maps
from pmni.data.readers.reader import Reader
from pmni.errors import InputError
from pmni.geometry.cameras import flip_yz
from pmni.io.images import NORMAL_SUFFIXES, read_mask, read_normal_map
from pmni.io.poses import read_poses


def read(folder: Path, normals: str) -> RawCapture:
    """Read the normal maps in the subfolder `normals`. Raises InputError."""
    files = list_views(folder / normals, NORMAL_SUFFIXES, "normal maps")
    views = tuple(path.stem for path in files.values())
    mask_files = list_views(find_folder(folder, ("masks", "mask")), (".png",), "masks")
    check_same_views(files, mask_files, str(next(iter(mask_files.values())).parent), "mask")
    intrinsics_files = _intrinsics_files(folder, files)
    intrinsics = np.stack([read_intrinsics(path) for path in intrinsics_files])
    camera_files = tuple(dict.fromkeys(intrinsics_files))

    c2w = None
    poses_file = find_ground_truth(folder, "poses.json")
    if poses_file is not None:
        c2w = _reference_poses(poses_file, files)
        camera_files += (poses_file,)
    mesh_file = find_ground_truth(folder, "mesh_Gt.ply")
    return RawCapture(
        views=views,
        normals=read_maps(files.values(), views, lambda path: flip_yz(read_normal_map(path))),
        masks=read_maps([mask_files[key] for key in files], views, read_mask),
        intrinsics=intrinsics,
        intrinsics_sources=tuple(str(path) for path in intrinsics_files),
        camera_files=camera_files,
        dataset_c2w=c2w,
        mesh_file=mesh_file,
        ground_truth_mesh=read_mesh(mesh_file) if mesh_file else None,
    )


def _intrinsics_files(folder: Path, views: dict[Key, Path]) -> tuple[Path, ...]:
    if (folder / "K.txt").is_file():
        return (folder / "K.txt",) * len(views)
    if not (folder / "K").is_dir():
        raise InputError(f"{folder}: holds neither K.txt nor K/<view>.txt (the intrinsics)")
    files = list_views(folder / "K", (".txt",), "intrinsics")
    check_same_views(views, files, str(folder / "K"), "intrinsics")
    return tuple(files[key] for key in views)


def _reference_poses(path: Path, views: dict[Key, Path]) -> Float[np.ndarray, "V 4 4"]:
    """Camera-to-world in the file's own unit, in the order of `views`."""
    poses = read_poses(path)
    index = dict(zip(view_keys(poses.views), poses.views, strict=True))
    check_same_views(views, index, str(path), "pose")
    return poses.select([index[key] for key in views])


def matches(folder: Path) -> bool:
    """Whether there are intrinsics beside a folder of masks."""
    has_intrinsics = (folder / "K.txt").is_file() or (folder / "K").is_dir()
    return has_intrinsics and find_folder(folder, ("masks", "mask")).is_dir()


def normal_sets(folder: Path) -> list[str]:
    """The subfolders that hold images and are not masks."""
    others = {"masks", "mask", "K", "gt"}
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and path.name not in others and not path.name.startswith(".")
        if any(file.suffix.lower() in NORMAL_SUFFIXES for file in path.iterdir())
    )


READER = Reader("K.txt, masks/, and a folder of normal maps", matches, normal_sets, read)
