"""What is measured of the views of a surface: masks and normals, with all errors asked for."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from pmni.config.capture import SynthesizeSettings
from pmni.geometry.cameras import flip_yz
from pmni.geometry.mesh import Mesh
from pmni.synthetic.mask_errors import extended, wrong_mask
from pmni.synthetic.noise import angle_between, photometric_stereo
from pmni.synthetic.rendering import View
from pmni.synthetic.shading import shading_errors

# Streams of random numbers: another error of one kind leaves those of the other kinds alone.
NOISE, MASKS, SHADING = 2, 4, 5


@dataclass(frozen=True)
class Measured:
    """A view as it is measured."""

    mask: Bool[np.ndarray, "H W"]
    normals: Float[np.ndarray, "H W 3"]
    """Camera frame, zero outside the mask; where the mask is too large, the nearest pixel's."""
    error_deg: float
    """Mean angle to the true normals, where there are any."""


def measure(
    views: Iterable[View],
    c2w: Float[np.ndarray, "V 4 4"],
    mesh: Mesh,
    settings: SynthesizeSettings,
    stream: Callable[[int], np.random.Generator],
) -> Iterator[tuple[View, Measured]]:
    """Each view with what is measured of it; `stream` gives random numbers by their number.

    Errors from shading are made first, for all views together; noise comes on top.
    """
    noise, masks = stream(NOISE), stream(MASKS)
    shaded: Iterable[Float[np.ndarray, "H W 3"] | None]
    if settings.shading_error > 0:
        views = list(views)
        angle = np.deg2rad(settings.shading_error)
        shaded = shading_errors(views, c2w, mesh, angle, stream(SHADING))
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
        if settings.mask_offset > 0 or settings.mask_raggedness > 0:
            mask = wrong_mask(mask, settings.mask_offset, settings.mask_raggedness, masks)
            normals = extended(normals, view.mask) * mask[..., None]
        yield view, Measured(mask, normals, float(error))
