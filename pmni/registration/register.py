"""Initial camera poses of a capture."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from pmni.config.extensions import METHODS
from pmni.config.registration import RegisterSettings
from pmni.data.capture import Capture
from pmni.geometry.poses import Poses


def register(
    capture: Capture,
    ray_distances: Float[np.ndarray, "V H W"] | None = None,
    settings: RegisterSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> Poses:
    """Initial poses of all views, by the method that the settings name.

    Args:
        capture: Normals, masks and intrinsics; reference poses for the methods that use them.
        ray_distances: Integrated ray distances (`pmni.integrate`), NaN where there are none; only
            method from_scratch needs them.
        settings: By default those of method from_scratch.
        progress: Called with lines of text, for example `print`.

    Returns:
        Camera-to-world poses in the normalised world, and the method's information about them.

    Raises:
        InputError: The capture lacks something that the method needs.
        ConvergenceError: The views do not determine the poses.
    """
    settings = settings or RegisterSettings(method="from_scratch")
    say: Callable[[str], None] = progress if progress is not None else lambda _: None
    poses = METHODS[settings.method].find(capture, ray_distances, settings, say)
    return replace(poses, information={"method": settings.method, **poses.information})
