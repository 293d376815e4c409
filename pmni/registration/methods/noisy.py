"""The reference poses with Gaussian noise."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from pmni.config.registration import RegisterSettings
from pmni.data.capture import Capture
from pmni.geometry.poses import Poses
from pmni.registration.methods.method import Method
from pmni.registration.methods.reference import reference_c2w
from pmni.registration.perturbation import add_noise


def find(
    capture: Capture,
    ray_distances: Float[np.ndarray, "V H W"] | None,
    settings: RegisterSettings,
    progress: Callable[[str], None],
) -> Poses:
    """The reference poses with noise. Raises InputError when there are none."""
    rng = np.random.default_rng(settings.seed)
    reference = reference_c2w(capture)
    noise = settings.rotation_noise, settings.translation_noise
    return Poses(capture.views, add_noise(reference, *noise, rng))


METHOD = Method(find)
