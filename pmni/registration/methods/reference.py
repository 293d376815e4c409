"""The poses that came with the capture."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from pmni.config.registration import RegisterSettings
from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.geometry.poses import Poses
from pmni.registration.methods.method import Method


def find(
    capture: Capture,
    ray_distances: Float[np.ndarray, "V H W"] | None,
    settings: RegisterSettings,
    progress: Callable[[str], None],
) -> Poses:
    """The reference poses. Raises InputError when there are none."""
    return Poses(capture.views, reference_c2w(capture))


def reference_c2w(capture: Capture) -> Float[np.ndarray, "V 4 4"]:
    """The reference poses. Raises InputError when there are none."""
    if capture.reference_c2w is None:
        raise InputError(
            f"{capture.name}: the capture has no reference poses; set registration.method: "
            "from_scratch"
        )
    return capture.reference_c2w


METHOD = Method(find)
