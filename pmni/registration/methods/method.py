"""The interface of registration methods."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pmni.config.registration import RegisterSettings
from pmni.data.capture import Capture
from pmni.geometry.poses import Poses

Find = Callable[
    [Capture, Float[np.ndarray, "V H W"] | None, RegisterSettings, Callable[[str], None]], Poses
]


@dataclass(frozen=True)
class Method:
    """One way to initial poses. Its module imports PyTorch only when `find` is called."""

    find: Find
    """Poses of a capture, from it and its integrated ray distances (NaN where there are none). Gets
    the settings and a function that takes lines for people. Raises InputError or
    ConvergenceError."""
    needs_ray_distances: bool = False
    """Whether `find` reads the ray distances."""
