"""Where the surface starts: the tightest visual hull that still covers the masks."""

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.refinement import VisualHullSettings
from pmni.refinement.observations import Observations
from pmni.refinement.residuals import rays_through
from pmni.refinement.state import State
from pmni.sdf.grid import GridSDF
from pmni.sdf.narrow_band import NarrowBandSDF, resample
from pmni.sdf.sphere_tracing import box_interval, trace
from pmni.sdf.visual_hull import visual_hulls


def initial_hull(
    observations: Observations, c2w: Float[Tensor, "V 4 4"], settings: VisualHullSettings
) -> GridSDF:
    """The hull of the masks for the fewest disagreeing views at which it covers the masks.

    Wrong poses carve it away where all views must agree. Whether it covers the masks is asked of
    the same values as a narrow band, through which kernels follow rays.
    """
    most = max(1, round(settings.max_disagreeing_fraction * len(observations)))
    values = visual_hulls(
        observations.contour_distance,
        observations.intrinsics,
        c2w.float(),
        settings.nodes,
        most,
        observations.sizes,
    )
    for candidate in values:
        surface = resample(GridSDF(candidate), settings.nodes - 1, observations.device, sweeps=0)
        if coverage(surface, observations, c2w, settings.probes) >= settings.min_coverage:
            break
    return GridSDF(candidate)


def coverage(
    surface: NarrowBandSDF, observations: Observations, c2w: Float[Tensor, "V 4 4"], probes: int
) -> float:
    """Fraction of mask pixels whose rays meet the surface, from `probes` pixels of each view."""
    generator = torch.Generator(device=observations.device).manual_seed(0)
    pixels = observations.pixels[observations.sample_pixels(probes, generator)].float()
    _, origins, directions = rays_through(observations, State.start(surface, c2w), pixels)
    near, far = box_interval(origins, directions)
    return float(trace(surface, origins, directions, near, far).mask.float().mean())
