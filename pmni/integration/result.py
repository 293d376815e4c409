"""What `integrate` leaves behind, read back."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from pmni.data.capture import Capture
from pmni.errors import InputError


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
