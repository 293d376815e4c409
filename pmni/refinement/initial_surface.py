"""Where the surface starts: the tightest visual hull that still covers the masks."""

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.refinement.observations import Observations
from pmni.sdf.grid import GridSDF
from pmni.sdf.narrow_band import NarrowBandSDF, resample
from pmni.sdf.sphere_tracing import box_interval, trace
from pmni.sdf.visual_hull import visual_hulls

NODES = 65
"""Along a side of the grid on which it is computed."""
COVERED = 0.97
"""Of the masks' pixels must see the hull."""
PROBES = 500
"""Pixels of each view that are tried."""
MAX_DISAGREEING_FRACTION = 0.2
"""Of the views may disagree with each point."""


def initial_hull(
    observations: Observations, c2w: Float[Tensor, "V 4 4"], nodes: int = NODES
) -> GridSDF:
    """The hull of the masks for the first number of views that may disagree at which it covers
    the masks: wrong poses carve it away where all views must agree.

    Whether it covers them is asked of the same values as a band, through which kernels follow rays.
    """
    most = max(1, round(MAX_DISAGREEING_FRACTION * len(observations)))
    values = visual_hulls(
        observations.contour_distance,
        observations.intrinsics,
        c2w.float(),
        nodes,
        most,
        observations.sizes,
    )
    for candidate in values:
        surface = resample(GridSDF(candidate), nodes - 1, observations.device, sweeps=0)
        if covered(surface, observations, c2w) >= COVERED:
            break
    return GridSDF(candidate)


def covered(
    surface: NarrowBandSDF, observations: Observations, c2w: Float[Tensor, "V 4 4"]
) -> float:
    """The fraction of the masks' pixels whose rays meet the surface."""
    generator = torch.Generator(device=observations.device).manual_seed(0)
    pixels = observations.pixels[observations.sample_pixels(PROBES, generator)].float()
    local = observations.directions(pixels, torch.zeros((), device=observations.device))
    directions = (c2w[:, None, :3, :3].float() @ local[..., None])[..., 0].view(-1, 3)
    origins = c2w[:, None, :3, 3].float().expand(-1, PROBES, -1).reshape(-1, 3)
    near, far = box_interval(origins, directions)
    return float(trace(surface, origins, directions, near, far).mask.float().mean())
