"""Dataset folders -> captures: one reader for each layout, one set of checks for all."""

import logging
from pathlib import Path

from pmni.config.capture import Layout
from pmni.data.capture import Capture
from pmni.data.readers import diligent_mv, own, supernormal
from pmni.data.readers.raw import assemble
from pmni.errors import InputError

READERS = {
    "supernormal": supernormal.read,
    "diligent_mv": diligent_mv.read,
    "own": own.read,
}

log = logging.getLogger("pmni.data")


def read_capture(
    layout: Layout, folder: Path, name: str, normals: str, depth_init_scale: float = 1.0
) -> tuple[Capture, dict[str, Path]]:
    """Read and check one object; returns the capture and the files that it was read from.

    `normals` names the normal set as the layout does (see each reader). Ray distances that come
    with the dataset are multiplied by `depth_init_scale`. Raises InputError, one line that names
    file and view, for everything that is wrong with the folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder (object '{name}')")
    raw = READERS[layout](folder, normals, depth_init_scale)
    capture = assemble(raw, name)
    files = {str(path.relative_to(folder)): path for path in raw.all_files()}
    reference = "no poses" if capture.reference_c2w is None else "reference poses"
    views, height, width = capture.masks.shape
    log.info("%s: %d views of %d x %d, %s", name, views, width, height, reference)
    return capture, files
