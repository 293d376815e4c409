"""An ideal turntable circle, with errors if the settings ask for some."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from pmni.config.registration import RegisterSettings
from pmni.data.capture import Capture
from pmni.geometry.poses import Poses
from pmni.registration.ideal_turntable import ideal_turntable
from pmni.registration.methods.method import Method
from pmni.registration.perturbation import add_view_errors


def find(
    capture: Capture,
    ray_distances: Float[np.ndarray, "V H W"] | None,
    settings: RegisterSettings,
    progress: Callable[[str], None],
) -> Poses:
    """Cameras at equal steps on a circle, in the order of the views."""
    c2w = ideal_turntable(
        capture.masks,
        capture.intrinsics,
        np.deg2rad(settings.elevation),
        settings.radius,
        settings.direction == "clockwise",
    )
    rng = np.random.default_rng(settings.seed)
    errors = settings.view_error, settings.distance_error
    return Poses(capture.views, add_view_errors(c2w, *errors, rng))


METHOD = Method(find)
