"""Normal maps and masks in the layout of SuperNormal.

Together with `cameras_sphere.npz` the folder of the exports is a data set that SuperNormal, PMNI
and `pmni prepare` read. Camera-space normal files are x right, y up, z towards the camera.
"""

from pathlib import Path

from pmni.exporting.exporter import Exporter
from pmni.exporting.scene import MASK_FOLDER, NORMAL_FOLDER, ExportScene
from pmni.geometry.cameras import flip_yz
from pmni.io.images import write_mask, write_normal_map


def write_supernormal(folder: Path, scene: ExportScene) -> None:
    """Write a normal map and a mask for each camera."""
    for name in (NORMAL_FOLDER, MASK_FOLDER):
        (folder / name).mkdir()
    capture = scene.capture
    for view, name in zip(scene.cameras.views, scene.image_names, strict=True):
        index = capture.views.index(view)
        write_normal_map(folder / NORMAL_FOLDER / name, flip_yz(capture.normals[index]))
        write_mask(folder / MASK_FOLDER / name, capture.masks[index])


EXPORTER = Exporter(
    output=NORMAL_FOLDER,
    software="SuperNormal, PMNI, `pmni prepare`",
    omits="the cameras, which `neus` writes beside them in the form that these programs read",
    write=write_supernormal,
)
