"""The ways to initial poses, by name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from pmni.config.registration import RegisterSettings
from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.registration.multiview.free import search
from pmni.registration.perturbation import add_noise, add_view_errors
from pmni.registration.ring import ring
from pmni.registration.verification.verifier import CONVINCING, CONVINCING_ABOUT_AXIS, Verifier


@dataclass(frozen=True)
class Request:
    """What there is to find poses from."""

    capture: Capture
    settings: RegisterSettings
    ray_distances: Float[np.ndarray, "V H W"] | None = None
    """Integrated ray distances; only `free` needs them."""


@dataclass(frozen=True)
class Registration:
    """Initial poses, and what the method says of them."""

    c2w: Float[np.ndarray, "V 4 4"]
    information: dict[str, Any] = field(default_factory=dict)


Method = Callable[[Request], Registration]


def reference_poses(request: Request) -> Registration:
    """The poses that came with the capture. Raises InputError when none did."""
    return Registration(_reference(request.capture))


def _reference(capture: Capture) -> Float[np.ndarray, "V 4 4"]:
    if capture.reference_c2w is None:
        raise InputError(
            f"{capture.name}: the capture has no reference poses; set registration.method: free"
        )
    return capture.reference_c2w


def noisy_poses(request: Request) -> Registration:
    """The reference poses with Gaussian noise."""
    settings = request.settings
    rng = np.random.default_rng(settings.seed)
    return Registration(
        add_noise(
            _reference(request.capture),
            settings.rotation_noise,
            settings.translation_noise,
            rng,
        )
    )


def ring_poses(request: Request) -> Registration:
    """An ideal ring, with errors if the settings ask for some."""
    capture, settings = request.capture, request.settings
    c2w = ring(
        capture.masks,
        capture.intrinsics,
        np.deg2rad(settings.elevation),
        settings.radius,
        settings.direction == "clockwise",
    )
    rng = np.random.default_rng(settings.seed)
    return Registration(add_view_errors(c2w, settings.view_error, settings.distance_error, rng))


def free_poses(request: Request) -> Registration:
    """Poses found from normals, masks and intrinsics alone.

    Raises InputError without ray distances, and ConvergenceError when the views do not determine
    the poses.
    """
    capture, settings = request.capture, request.settings
    if request.ray_distances is None:
        raise InputError(f"{capture.name}: method 'free' needs --ray-distances")
    found = search(capture, request.ray_distances, settings, torch.device("cpu"))
    verifier = Verifier(capture, found.views, found.graph, settings.seed, settings.ordered)
    best = verifier.best(
        [(one.kind, one.c2w) for one in found.candidates],
        lambda: [(one.kind, one.c2w) for one in found.further()],
        CONVINCING_ABOUT_AXIS if found.turntable else CONVINCING,
    )
    per_view = dict(zip(capture.views, best.explained.round(4).tolist(), strict=True))
    return Registration(
        best.c2w,
        {
            "assumed": best.kind,
            "candidates": len(found.candidates),
            "confidence": round(float(best.explained.mean()), 4),
            "margin": best.margin,
            "disorder": best.disorder,
            "symmetry_loss": best.symmetry_loss,
            "turning_loss": verifier.turning_loss,
            "explained": per_view,
        },
    )


METHODS: dict[str, Method] = {
    "reference": reference_poses,
    "noisy": noisy_poses,
    "ring": ring_poses,
    "free": free_poses,
}
