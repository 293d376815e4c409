"""Simulated sensors: masks and normals of rendered views, with the errors of measurement."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from pmni.config.capture import SynthesizeSettings
from pmni.geometry.cameras import flip_yz
from pmni.geometry.mesh import Mesh
from pmni.geometry.silhouettes import extrapolate
from pmni.synthetic.mask_errors import perturb_mask
from pmni.synthetic.noise import angle_between, photometric_stereo
from pmni.synthetic.rendering import View
from pmni.synthetic.shading import shading_errors

NOISE_STREAM = 2
"""Stream of random numbers of noise; each kind of error has its own, independent of the others."""
MASK_STREAM = 4
"""Stream of random numbers of mask errors."""
SHADING_STREAM = 5
"""Stream of random numbers of shading errors."""


@dataclass(frozen=True)
class Measurement:
    """Mask and normals of a view, with the errors of measurement."""

    mask: Bool[np.ndarray, "H W"]
    normals: Float[np.ndarray, "H W 3"]
    """Camera frame, zero outside the mask; where the mask is too large, the nearest pixel's."""
    error_deg: float
    """Mean angle to the true normals, where there are any."""


def simulate_sensor(
    views: Iterable[View],
    c2w: Float[np.ndarray, "V 4 4"],
    mesh: Mesh,
    settings: SynthesizeSettings,
    stream: Callable[[int], np.random.Generator],
) -> Iterator[tuple[View, Measurement]]:
    """Each view with what is measured of it; `stream` gives random numbers by their number.

    Errors from shading are made first, for all views together; noise comes on top.
    """
    noise, masks = stream(NOISE_STREAM), stream(MASK_STREAM)
    shaded: Iterable[Float[np.ndarray, "H W 3"] | None]
    if settings.shading_error > 0:
        views = list(views)
        angle = np.deg2rad(settings.shading_error)
        shaded = shading_errors(views, c2w, mesh, angle, stream(SHADING_STREAM))
    else:
        shaded = (None for _ in c2w)
    for view, image in zip(views, shaded, strict=True):
        normals = view.normals if image is None else image
        if settings.normal_noise > 0:
            angle = np.deg2rad(settings.normal_noise)
            rays = flip_yz(view.rays)
            normals = flip_yz(photometric_stereo(flip_yz(normals), view.mask, -rays, angle, noise))
        error = np.rad2deg(angle_between(normals[view.mask], view.normals[view.mask]).mean())
        mask = view.mask
        if settings.mask_offset > 0 or settings.mask_jitter > 0:
            mask = perturb_mask(mask, settings.mask_offset, settings.mask_jitter, masks)
            normals = extrapolate(normals, view.mask) * mask[..., None]
        yield view, Measurement(mask, normals, float(error))
