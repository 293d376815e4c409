"""Ray distances on disk: `ray_distance.npz`, which `integrate` writes."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.io.atomic import atomic_file


def write_ray_distances(
    path: Path, distances: Float[np.ndarray, "V H W"], views: tuple[str, ...]
) -> None:
    """Write ray distances (NaN outside the masks) and the names of the views, atomically."""
    with atomic_file(path) as temporary:
        np.savez_compressed(temporary, ray_distance=distances, views=np.array(views))


def read_ray_distances(path: Path, capture: Capture) -> Float[np.ndarray, "V H W"]:
    """Integrated ray distances. Raises InputError unless they belong to the capture."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            distances, views = archive["ray_distance"], tuple(archive["views"])
    except (OSError, ValueError, KeyError):
        raise InputError(f"{path}: not a file of ray distances; run `pmni integrate`") from None
    if views != capture.views or distances.shape != capture.masks.shape:
        raise InputError(
            f"{path}: made for other views than {capture.name}'s; run `pmni integrate`"
        )
    return distances
