"""The canonical capture of one object: what every stage after `prepare` reads."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from pmni.config.extensions import READERS
from pmni.data.layouts import detect_layout, only_normal_set
from pmni.errors import InputError
from pmni.geometry.mesh import Mesh
from pmni.geometry.poses import check_rigid
from pmni.io.atomic import atomic_file, write_text
from pmni.io.poses import FRAME


@dataclass(frozen=True)
class Capture:
    """Normals, masks and intrinsics of V views of one object, with whatever ground truth is known.

    Normals are unit vectors in the camera frame (OpenCV axes: x right, y down, z forward, so that
    visible surfaces have z < 0), zero outside the mask. Views of different sizes are padded at the
    right and bottom; the mask is False there, but an object that touches the border of its view's
    own image may go on. Poses live in the normalised world: X_dataset = scale * X_normalised +
    offset. Without reference poses, `scale` is 1, and registration chooses the normalised world.

    One 3 x 3 matrix of intrinsics serves all views; views without names are numbered.
    Raises InputError when the arrays do not fit together; `pmni.data.validation` checks the rest.
    """

    normals: Float[np.ndarray, "V H W 3"]
    masks: Bool[np.ndarray, "V H W"]
    intrinsics: Float[np.ndarray, "... 3 3"]
    views: tuple[str, ...] = ()
    """The views' names."""
    name: str = "object"
    """The object's name."""
    reference_c2w: Float[np.ndarray, "V 4 4"] | None = None
    scale: float = 1.0
    """Dataset units (mm) in a unit of the normalised world."""
    offset: Float[np.ndarray, "3"] = field(default_factory=lambda: np.zeros(3))
    """Origin of the normalised world, dataset units."""
    ground_truth_normals: Float[np.ndarray, "V H W 3"] | None = None
    """Camera frame; zero where the dataset has none."""
    ground_truth_mesh: Mesh | None = None
    """Dataset units."""
    ray_distances: Float[np.ndarray, "V H W"] | None = None
    """Ray distances that came with the dataset (unknown scale a view), NaN outside the mask."""
    sizes: Int[np.ndarray, "V 2"] | None = None
    """(height, width) of each view's own image, where views are padded; None if none is."""

    def __post_init__(self) -> None:
        """Complete intrinsics and names, and check shapes."""
        count = len(self.masks)
        if np.shape(self.intrinsics) == (3, 3):
            object.__setattr__(self, "intrinsics", np.tile(self.intrinsics, (count, 1, 1)))
        if not self.views:
            object.__setattr__(self, "views", tuple(f"{index:02d}" for index in range(count)))
        expected = {
            "masks": (count, *np.shape(self.normals)[1:3]),
            "normals": (*np.shape(self.masks), 3),
            "intrinsics": (count, 3, 3),
            "reference_c2w": (count, 4, 4),
        }
        for key, shape in expected.items():
            value = getattr(self, key)
            if value is not None and np.shape(value) != shape:
                raise InputError(f"{self.name}: {key} has shape {np.shape(value)}, not {shape}")
        if len(set(self.views)) != count:
            raise InputError(f"{self.name}: needs {count} different names of views")

    @staticmethod
    def load(path: str | Path, normals: str | None = None, layout: str | None = None) -> "Capture":
        """The capture in a folder: one that `pmni prepare` has written, or a dataset in any layout.

        Args:
            path: The folder.
            normals: The normal set, where the folder has several (a subfolder's name, such as
                normal_camera_space_GT).
            layout: How the dataset is laid out; None finds out.

        Raises InputError, one line that names file and view, for whatever is wrong with it.
        """
        folder = Path(path)
        if (folder / "capture.npz").is_file():
            return load_capture(folder)
        layout = layout or detect_layout(folder)
        normals = normals or only_normal_set(folder, layout)
        capture: Capture = READERS[layout].load(folder, folder.resolve().name, normals)[0]
        return capture

    def image_sizes(self) -> Int[np.ndarray, "V 2"]:
        """(height, width) of each view's own image: beyond it nothing is known."""
        if self.sizes is not None:
            return self.sizes
        return np.tile(self.masks.shape[1:], (len(self.masks), 1))

    def view_indices(self, excluded: tuple[str, ...]) -> list[int]:
        """The indices of the views that are not excluded. Raises InputError for unknown views."""
        for view in excluded:
            if view not in self.views:
                raise InputError(
                    f"{self.name}: exclude_views names '{view}', which is not a view; "
                    f"views are {', '.join(self.views)}"
                )
        return [index for index, view in enumerate(self.views) if view not in excluded]

    def to_dataset(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """Points of the normalised world in dataset units."""
        return self.scale * points + self.offset

    def to_normalised(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """Points in dataset units in the normalised world."""
        return (points - self.offset) / self.scale


# Per-pixel arrays are stored for the pixels inside the masks only.
_PIXEL_KEYS = ("normals", "ground_truth_normals", "ray_distances")
_GROUND_TRUTH_KEYS = ("ground_truth_normals", "ground_truth_vertices", "ground_truth_faces")
_PLAIN_KEYS = ("intrinsics", "reference_c2w", "offset", "sizes")


def save_capture(folder: Path, capture: Capture) -> None:
    """Write `capture.npz` (arrays) and `cameras.json` (cameras, for people) into `folder`."""
    arrays: dict[str, Any] = {
        "name": capture.name,
        "views": np.array(capture.views),
        "shape": np.array(capture.masks.shape),
        "masks": np.packbits(capture.masks),
        "scale": capture.scale,
    }
    for key in _PIXEL_KEYS:
        if (value := getattr(capture, key)) is not None:
            arrays[key] = value[capture.masks].astype(np.float32)
    for key in _PLAIN_KEYS:
        if (value := getattr(capture, key)) is not None:
            arrays[key] = value
    if (mesh := capture.ground_truth_mesh) is not None:
        arrays |= {"ground_truth_vertices": mesh.vertices, "ground_truth_faces": mesh.faces}
    with atomic_file(folder / "capture.npz") as temporary:
        np.savez(temporary, **arrays)
    cameras: dict[str, Any] = {"frame": FRAME, "scale": capture.scale}
    cameras["offset"] = capture.offset.tolist()
    cameras["views"] = {
        view: {"intrinsics": capture.intrinsics[index].tolist()}
        for index, view in enumerate(capture.views)
    }
    if capture.reference_c2w is not None:
        for view, c2w in zip(capture.views, capture.reference_c2w, strict=True):
            check_rigid(c2w, f"{capture.name}: view {view}")
            cameras["views"][view]["reference_camera_to_world"] = c2w.tolist()
    write_text(folder / "cameras.json", json.dumps(cameras, indent=1) + "\n")


def load_capture(folder: Path, with_ground_truth: bool = True) -> Capture:
    """Read a capture written by `save_capture`; raises InputError naming the file.

    Without the truth, its normals and its mesh are not even read.
    """
    path = Path(folder) / "capture.npz"
    left_out = () if with_ground_truth else _GROUND_TRUTH_KEYS
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive if key not in left_out}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception:
        raise InputError(f"{path}: not a capture, or damaged; run `pmni prepare` again") from None
    shape = tuple(arrays["shape"])
    masks = np.unpackbits(arrays["masks"])[: np.prod(shape)].reshape(shape).astype(bool)
    values: dict[str, Any] = {}
    for key in _PIXEL_KEYS:
        if key in arrays:
            fill = np.nan if key == "ray_distances" else 0.0
            image = np.full((*shape, *arrays[key].shape[1:]), fill, np.float32)
            image[masks] = arrays[key]
            values[key] = image
    values.update({key: arrays[key] for key in _PLAIN_KEYS if key in arrays})
    if "ground_truth_vertices" in arrays:
        mesh = Mesh(arrays["ground_truth_vertices"], arrays["ground_truth_faces"])
        values["ground_truth_mesh"] = mesh
    return Capture(
        name=str(arrays["name"]),
        views=tuple(str(view) for view in arrays["views"]),
        masks=masks,
        scale=float(arrays["scale"]),
        **values,
    )
