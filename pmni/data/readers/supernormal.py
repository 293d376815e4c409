"""The layout of SuperNormal and PMNI.

    cameras_sphere.npz                 world_mat_i = K [R | t], scale_mat_i   (optional: see below)
    K.txt                              3 x 3, when there are no cameras
    mask/<i>.png
    normal_camera_space_<set>/<i>.exr  x right, y up, z towards the camera
    normal_world_space_<set>/<i>.exr   in the dataset's world frame
    normal_*_GT/<i>.exr                ground truth (optional)
    integration/perspective/<i>.npy    ray distances of unknown scale (optional)
    mesh_Gt.ply                        ground truth, dataset units (optional)

Without `cameras_sphere.npz` the capture has no poses. It and `mesh_Gt.ply` may also be in the
subfolder `gt`: then K is taken from `K.txt`, and nothing but the reference poses, the normalisation
and the mesh depends on what is there. Files may be PNG or NumPy instead of EXR.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg
from jaxtyping import Float

from pmni.data.normalisation import Normalisation
from pmni.data.readers.files import (
    Key,
    check_same_views,
    find_folder,
    find_ground_truth,
    list_views,
    read_intrinsics,
    read_mesh,
)
from pmni.data.readers.raw import Maps, RawCapture, read_maps
from pmni.data.readers.reader import Reader
from pmni.errors import InputError
from pmni.geometry.cameras import flip_yz
from pmni.io.images import NORMAL_SUFFIXES, read_distances, read_mask, read_normal_map


def read(folder: Path, normals: str) -> RawCapture:
    """Read the normal set in the subfolder `normals`. Raises InputError."""
    files = list_views(_normal_folder(folder, normals), NORMAL_SUFFIXES, "normal maps")
    keys = list(files)
    views = tuple(path.stem for path in files.values())
    mask_files = list_views(find_folder(folder, ("mask", "masks")), (".png",), "masks")
    check_same_views(files, mask_files, str(next(iter(mask_files.values())).parent), "mask")

    cameras = _read_all_cameras(folder, files, views)
    usable_c2w = cameras.c2w if cameras.usable else None
    mesh_file = find_ground_truth(folder, "mesh_Gt.ply")
    return RawCapture(
        views=views,
        normals=_read_normals(files, normals, usable_c2w),
        masks=read_maps([mask_files[key] for key in keys], views, read_mask),
        intrinsics=cameras.intrinsics,
        intrinsics_sources=(str(cameras.files[0]),) * len(views),
        camera_files=cameras.files,
        dataset_c2w=cameras.c2w,
        normalisation=cameras.normalisation,
        ground_truth_normals=_ground_truth_normals(folder, files, cameras.c2w),
        ray_distances=_ray_distances(folder, files),
        mesh_file=mesh_file,
        ground_truth_mesh=read_mesh(mesh_file) if mesh_file else None,
    )


@dataclass(frozen=True)
class _Cameras:
    """Intrinsics and reference poses, in the order of the views."""

    files: tuple[Path, ...]
    """The first is where the intrinsics are from."""
    intrinsics: Float[np.ndarray, "V 3 3"]
    c2w: Float[np.ndarray, "V 4 4"] | None = None
    normalisation: Normalisation | None = None
    usable: bool = False
    """Whether the poses are beside the images, not in `gt`, so that world-space normals can be
    converted with them."""


def _read_all_cameras(folder: Path, files: dict[Key, Path], views: tuple[str, ...]) -> _Cameras:
    """`cameras_sphere.npz`, beside the images or in `gt`, and `K.txt`."""
    cameras_file, intrinsics_file = (
        find_ground_truth(folder, "cameras_sphere.npz"),
        folder / "K.txt",
    )
    usable = cameras_file is not None and cameras_file.parent == folder
    if not usable and not intrinsics_file.is_file():
        raise InputError(f"{folder}: holds neither cameras_sphere.npz nor K.txt")
    K_files = (intrinsics_file,) if intrinsics_file.is_file() else ()
    if cameras_file is None:
        K = read_intrinsics(intrinsics_file)
        return _Cameras(K_files, np.tile(K, (len(views), 1, 1)))
    matrices, normalisation = read_cameras(cameras_file)
    check_same_views(files, matrices, str(cameras_file), "camera")
    cameras = [decompose(matrices[key], f"{cameras_file}: view {key}") for key in files]
    _check_scales([matrices[key] for key in files], views, cameras_file)
    intrinsics = np.stack([K for K, _ in cameras])
    c2w = np.stack([pose for _, pose in cameras])
    if K_files:
        _check_same_intrinsics(intrinsics, views, intrinsics_file, cameras_file)
    if not usable:
        intrinsics = np.tile(read_intrinsics(intrinsics_file), (len(views), 1, 1))
    both = (cameras_file, *K_files) if usable else (*K_files, cameras_file)
    return _Cameras(both, intrinsics, c2w, normalisation, usable)


def read_cameras(path: Path) -> tuple[dict[Key, Float[np.ndarray, "3 4"]], Normalisation]:
    """Projection matrices (dataset world to pixels) by view number, and the normalisation.

    `scale_mat_i` maps the normalised world to the dataset's; it must be a uniform scale and a
    shift, the same for all views.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name], np.float64) for name in archive.files}
    except Exception:  # whatever is wrong inside a zip file
        raise InputError(f"{path}: not a NumPy archive, or truncated or damaged") from None
    found: dict[str, dict[Key, np.ndarray]] = {"world_mat": {}, "scale_mat": {}}
    for name, array in arrays.items():
        if match := re.fullmatch(r"(world_mat|scale_mat)_(\d+)", name):
            number: Key = int(match[2])
            if array.shape not in ((4, 4), (3, 4)) or not np.isfinite(array).all():
                raise InputError(f"{path}: view {number}: {name} is not a finite 4 x 4 matrix")
            found[match[1]][number] = array[:3]
    if not found["world_mat"] or not found["scale_mat"]:
        raise InputError(f"{path}: holds no world_mat_<i> and scale_mat_<i>")
    first = next(iter(found["scale_mat"].values()))
    scale, offset = float(first[0, 0]), first[:, 3]
    for number, matrix in found["scale_mat"].items():
        uniform = np.abs(matrix[:, :3] - scale * np.eye(3)).max() <= 1e-5 * abs(scale)
        if scale <= 0 or not uniform or np.abs(matrix[:, 3] - offset).max() > 1e-5 * abs(scale):
            raise InputError(
                f"{path}: view {number}: scale_mat_{number} must be a uniform scale and a shift, "
                f"the same as in the other views"
            )
    return found["world_mat"], Normalisation(scale, offset)


def decompose(
    P: Float[np.ndarray, "3 4"], where: str
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "4 4"]]:
    """K (K[2, 2] = 1, positive focal lengths) and camera-to-world pose of P ~ K [R | t].

    Hartley and Zisserman, Multiple View Geometry, 2nd edition, section 6.2.4.
    Raises InputError for a singular or mirrored matrix.
    """
    M = P[:, :3]
    determinant = np.linalg.det(M)
    if abs(determinant) < 1e-12 * np.abs(M).max() ** 3:
        raise InputError(f"{where}: world_mat is singular: not K [R | t] with a rotation R")
    if determinant < 0:
        raise InputError(f"{where}: world_mat is mirrored: not K [R | t] with a proper rotation R")
    K, R = scipy.linalg.rq(M)
    sign = np.sign(np.diagonal(K))
    K, R = K * sign, sign[:, None] * R
    c2w = np.eye(4)
    c2w[:3, :3] = R.T
    c2w[:3, 3] = -np.linalg.solve(M, P[:, 3])
    return K / K[2, 2], c2w


def _normal_folder(folder: Path, normals: str) -> Path:
    if not normals.startswith(("normal_camera_space", "normal_world_space")):
        raise InputError(
            f"{folder}: normal set '{normals}': must begin with normal_camera_space or "
            f"normal_world_space, which says its axes"
        )
    if not (folder / normals).is_dir():
        there = sorted(path.name for path in folder.glob("normal_*") if path.is_dir())
        raise InputError(f"{folder / normals}: no such folder; there are: {', '.join(there)}")
    return folder / normals


def _read_normals(
    files: dict[Key, Path], name: str, c2w: Float[np.ndarray, "V 4 4"] | None
) -> Maps:
    """Normals in the camera frame, from either kind of folder."""
    views = [path.stem for path in files.values()]
    if name.startswith("normal_camera_space"):
        return read_maps(files.values(), views, lambda path: flip_yz(read_normal_map(path)))
    if c2w is None:
        folder = next(iter(files.values())).parent
        raise InputError(
            f"{folder}: world-space normals need poses (cameras_sphere.npz); "
            f"without them name a camera-space set"
        )
    world = read_maps(files.values(), views, read_normal_map)
    rotations = c2w[:, :3, :3].astype(np.float32)
    camera = (image @ R for image, R in zip(world.maps, rotations, strict=True))
    return Maps(world.files, tuple(camera))


def _ground_truth_normals(
    folder: Path, views: dict[Key, Path], c2w: Float[np.ndarray, "V 4 4"] | None
) -> Maps | None:
    for name in ("normal_camera_space_GT", "normal_world_space_GT"):
        if (folder / name).is_dir() and (c2w is not None or "camera" in name):
            files = list_views(folder / name, NORMAL_SUFFIXES, "normal maps")
            check_same_views(views, files, str(folder / name), "ground truth")
            return _read_normals({key: files[key] for key in views}, name, c2w)
    return None


def _ray_distances(folder: Path, views: dict[Key, Path]) -> Maps | None:
    folder = folder / "integration" / "perspective"
    if not folder.is_dir():
        return None
    files = list_views(folder, (".npy",), "ray distances")
    check_same_views(views, files, str(folder), "ray distances")
    return read_maps(
        [files[key] for key in views],
        [path.stem for path in views.values()],
        read_distances,
    )


def _check_scales(
    matrices: list[Float[np.ndarray, "3 4"]], views: tuple[str, ...], path: Path
) -> None:
    """The last row of K [R | t] has unit length; one that differs from the rest is no rotation.

    Projection matrices are defined up to a factor, so files in which all differ are accepted.
    """
    length = np.array([np.linalg.norm(P[2, :3]) for P in matrices])
    deviation = np.abs(length / np.median(length) - 1)
    worst = int(deviation.argmax())
    if np.median(deviation) < 1e-3 and deviation[worst] > 0.01:
        raise InputError(
            f"{path}: view {views[worst]}: world_mat is not K [R | t] with a proper rotation R "
            f"(its last row is {length[worst]:.3f} long, in the other views "
            f"{np.median(length):.3f})"
        )


def _check_same_intrinsics(
    intrinsics: Float[np.ndarray, "V 3 3"], views: tuple[str, ...], path: Path, cameras: Path
) -> None:
    K = read_intrinsics(path)
    for view, decomposed in zip(views, intrinsics, strict=True):
        if np.abs(decomposed - K).max() > 0.01 * np.abs(K[0, 0]):
            raise InputError(
                f"{cameras}: view {view}: world_mat is not K [R | t] with a proper rotation R and "
                f"the K of {path.name} (focal lengths {decomposed[0, 0]:.5g}, "
                f"{decomposed[1, 1]:.5g}; there {K[0, 0]:.5g}, {K[1, 1]:.5g})"
            )


def matches(folder: Path) -> bool:
    """Whether there is a normal set whose name says its axes."""
    return bool(normal_sets(folder))


def normal_sets(folder: Path) -> list[str]:
    """The subfolders normal_camera_space_*, and normal_world_space_* where there is no camera-space
    set of the same name; ground truth last."""
    camera, world = (
        {path.name for path in folder.glob(f"{kind}*") if path.is_dir()}
        for kind in ("normal_camera_space", "normal_world_space")
    )
    found = camera | {name for name in world if name.replace("world", "camera") not in camera}
    return sorted(found, key=lambda name: (name.endswith("_GT"), name))


READER = Reader("normal_camera_space_*/ or normal_world_space_*/", matches, normal_sets, read)
