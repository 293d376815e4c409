"""The layout of DiLiGenT-MV as published.

    Calib_Results.mat      KK (3 x 3), Rc_1.. and Tc_1.. (world to camera, mm)
    view_01/Normal_gt.mat  key Normal_gt (H, W, 3): camera space, x right, y up, z to the camera
    view_01/mask.png       or mask/01.png
    mesh_Gt.ply            ground truth (optional)

The normal set is named by the stem of the files in the view folders: `Normal_gt`, or whatever
one has put there as .mat, .exr, .png or .npy.
"""

import logging
import re
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from scipy.io import loadmat
from scipy.ndimage import binary_fill_holes

from pmni.data.readers.files import (
    Key,
    by_view,
    check_same_views,
    find_file,
    find_folder,
    list_views,
    read_mesh,
)
from pmni.data.readers.raw import Maps, RawCapture, read_maps
from pmni.data.readers.reader import Reader
from pmni.data.validation import check_same_size, holds_normal
from pmni.errors import InputError
from pmni.geometry.cameras import flip_yz, invert_rigid
from pmni.geometry.poses import check_rigid
from pmni.io.images import NORMAL_SUFFIXES, read_mask, read_normal_map

GROUND_TRUTH = "Normal_gt"
"""Normal set of the ground truth."""

log = logging.getLogger("pmni.data")


def read(folder: Path, normals: str) -> RawCapture:
    """Read the normal maps with the stem `normals`. Raises InputError."""
    folders = by_view(path for path in folder.glob("view_*") if path.is_dir())
    if not folders:
        raise InputError(f"{folder}: holds no view_01, view_02, ...")
    views = tuple(path.name for path in folders.values())
    calibration = folder / "Calib_Results.mat"
    K, poses = read_calibration(calibration)
    check_same_views(folders, poses, str(calibration), "camera")

    normal_maps = _normal_maps([path / normals for path in folders.values()])
    has_ground_truth = all((path / f"{GROUND_TRUTH}.mat").is_file() for path in folders.values())
    ground_truth_maps = None
    if has_ground_truth:
        ground_truth_maps = _normal_maps([path / GROUND_TRUTH for path in folders.values()])
    mask_files = _mask_files(folder, folders)
    masks = read_maps(mask_files, views, read_mask).maps
    if ground_truth_maps is not None:
        filled = []
        for index, view in enumerate(views):
            where = f"{mask_files[index]}: view {view}"
            for maps in (ground_truth_maps, normal_maps):
                shape = maps.maps[index].shape[:2]
                check_same_size(masks[index].shape, shape, where, str(maps.files[index]))
            has_normal = holds_normal(ground_truth_maps.maps[index]) & holds_normal(
                normal_maps.maps[index]
            )
            filled.append(fill_holes(masks[index], has_normal, where))
        masks = tuple(filled)

    mesh_file = find_file(folder, "mesh_Gt.ply")
    return RawCapture(
        views=views,
        normals=normal_maps,
        masks=Maps(mask_files, masks),
        intrinsics=np.tile(K, (len(views), 1, 1)),
        intrinsics_sources=(str(calibration),) * len(views),
        camera_files=(calibration,),
        dataset_c2w=np.stack([poses[key] for key in folders]),
        ground_truth_normals=ground_truth_maps,
        mesh_file=mesh_file,
        ground_truth_mesh=read_mesh(mesh_file) if mesh_file else None,
    )


def read_calibration(
    path: Path,
) -> tuple[Float[np.ndarray, "3 3"], dict[Key, Float[np.ndarray, "4 4"]]]:
    """K and camera-to-world poses (dataset units) by view number."""
    content = _load_mat(path)
    K = np.asarray(content.get("KK", np.zeros(0)), np.float64)
    if K.shape != (3, 3):
        raise InputError(f"{path}: KK (3 x 3) expected")
    poses: dict[Key, np.ndarray] = {}
    for name in content:
        if match := re.fullmatch(r"Rc_(\d+)", name):
            number = int(match[1])
            w2c = np.eye(4)
            try:
                w2c[:3, :3] = np.asarray(content[name], np.float64)
                w2c[:3, 3] = np.asarray(content[f"Tc_{number}"], np.float64).ravel()
            except (KeyError, ValueError):
                raise InputError(
                    f"{path}: view {number}: Rc_{number} (3 x 3) and Tc_{number} (3) expected"
                ) from None
            poses[number] = invert_rigid(check_rigid(w2c, f"{path}: view {number}"))
    if not poses:
        raise InputError(f"{path}: holds no Rc_1, Tc_1, ...")
    return K, poses


def fill_holes(
    mask: Bool[np.ndarray, "H W"], has_normal: Bool[np.ndarray, "H W"], where: str
) -> Bool[np.ndarray, "H W"]:
    """The mask with those holes filled that have normals (`has_normal`).

    The masks of the object `bear` have such holes; gaps that show the background have no normals.
    """
    filled = mask | (binary_fill_holes(mask) & has_normal)
    if count := int(filled.sum() - mask.sum()):
        log.info("%s: filled holes of %d pixels, where there are normals", where, count)
    return filled


def _normal_maps(stems: list[Path]) -> Maps:
    """Camera-frame normals of files given without their suffix."""
    files = []
    for stem in stems:
        candidates = [stem.with_name(stem.name + end) for end in (".mat", *NORMAL_SUFFIXES)]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise InputError(
                f"{stem.parent}: view {stem.parent.name}: no normal map {stem.name}.mat (or "
                f"{', '.join(NORMAL_SUFFIXES)})"
            )
        files.append(path)

    def read(path: Path) -> np.ndarray:
        image = _mat_normals(path) if path.suffix == ".mat" else read_normal_map(path)
        return flip_yz(image)

    return read_maps(files, [stem.parent.name for stem in stems], read)


def _mat_normals(path: Path) -> Float[np.ndarray, "H W 3"]:
    content = _load_mat(path)
    image = np.asarray(content.get(path.stem, np.zeros(0)))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype.kind != "f":
        raise InputError(f"{path}: must hold '{path.stem}', (height, width, 3)")
    return image.astype(np.float32)


def _load_mat(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        content = loadmat(path)
    except NotImplementedError:
        raise InputError(f"{path}: is a MATLAB 7.3 file; save it with -v7") from None
    except Exception:  # whatever is wrong inside
        raise InputError(f"{path}: not a MATLAB file, or truncated or damaged") from None
    return {name: array for name, array in content.items() if isinstance(array, np.ndarray)}


def _mask_files(folder: Path, folders: dict[Key, Path]) -> tuple[Path, ...]:
    """Each view's mask.png, or else the files of a common folder of masks."""
    own = [path / "mask.png" for path in folders.values()]
    common = find_folder(folder, ("mask", "masks"))
    if any(path.is_file() for path in own) or not common.is_dir():
        for path in own:
            if not path.is_file():
                raise InputError(f"{path}: view {path.parent.name}: no such file (its mask)")
        return tuple(own)
    files = list_views(common, (".png",), "masks")
    check_same_views(folders, files, str(common), "mask")
    return tuple(files[key] for key in folders)


def matches(folder: Path) -> bool:
    """Whether there is a calibration beside folders of views."""
    return (folder / "Calib_Results.mat").is_file() and any(folder.glob("view_*"))


def normal_sets(folder: Path) -> list[str]:
    """The stems of the normal maps in the first view's folder, ground truth last."""
    first = min(path for path in folder.glob("view_*") if path.is_dir())
    suffixes = (".mat", *NORMAL_SUFFIXES)
    stems = {path.stem for path in first.iterdir() if path.suffix.lower() in suffixes}
    return sorted(stems - {"mask"}, key=lambda name: (name == GROUND_TRUTH, name))


READER = Reader("Calib_Results.mat and view_*/ (DiLiGenT-MV)", matches, normal_sets, read)
