"""The ways to initial poses, by name."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from pmni.capture.capture import Capture
from pmni.config.registration import RegisterSettings
from pmni.errors import InputError
from pmni.registration.errors import add_noise, add_view_errors
from pmni.registration.ring import ring

Method = Callable[[Capture, RegisterSettings], Float[np.ndarray, "V 4 4"]]


def reference_poses(capture: Capture, settings: RegisterSettings) -> Float[np.ndarray, "V 4 4"]:
    """The poses that came with the capture. Raises InputError when none did."""
    if capture.reference_c2w is None:
        raise InputError(
            f"{capture.name}: the capture has no reference poses; set registration.method: ring"
        )
    return capture.reference_c2w


def noisy_poses(capture: Capture, settings: RegisterSettings) -> Float[np.ndarray, "V 4 4"]:
    """The reference poses with Gaussian noise."""
    rng = np.random.default_rng(settings.seed)
    return add_noise(
        reference_poses(capture, settings),
        settings.rotation_noise,
        settings.translation_noise,
        rng,
    )


def ring_poses(capture: Capture, settings: RegisterSettings) -> Float[np.ndarray, "V 4 4"]:
    """An ideal ring, with errors if the settings ask for some."""
    c2w = ring(
        capture.masks,
        capture.intrinsics,
        np.deg2rad(settings.elevation),
        settings.radius,
        settings.direction == "clockwise",
    )
    rng = np.random.default_rng(settings.seed)
    return add_view_errors(c2w, settings.view_error, settings.distance_error, rng)


METHODS: dict[str, Method] = {
    "reference": reference_poses,
    "noisy": noisy_poses,
    "ring": ring_poses,
}
