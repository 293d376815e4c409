"""Whether views agree best with their neighbours, as they do where the poses are right.

The normals of two views at the same points of the surface differ by their errors, and by what
errors of the surface do to the correspondence; that grows with the angle between the views. Where
the views of two sides of the object were laid onto one side, a view agrees better with views of its
own side that are farther away than with its neighbours of the other, whatever the errors are.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from pmni.refinement.observations import Observations
from pmni.sdf.sdf import SDF
from pmni.sdf.sphere_tracing import box_interval, trace

PROBES = 300
"""Pixels of each view whose points are looked at from the others."""
FEWEST = 25
"""Points that a pair of views must have in common."""
NEIGHBOURS_DEG, PARTNERS_DEG = 45.0, 70.0
"""Angles between views: of neighbours, and of those with which they are compared."""
PARTNERS = 12
"""Nearest views of each that are compared."""
FARTHER_DEG = 5.0
"""By which a view must be farther away than a neighbour."""
LARGEST_DEG = 40.0
"""Differences of normals beyond say no more."""

_SAME_POINT = 0.05  # normalised units along the ray
_LEAST_STEP, _MOST_STEPS = 1 / 64, 80
_FACING = 0.2  # least cosine between a normal and the direction to the camera


def disorder(observations: Observations, surface: SDF, c2w: Float[Tensor, "V 4 4"]) -> float:
    """By what factor a view's normals differ more from those of a neighbour than from those of a
    view farther away, at worst: the median over the views; 1 if they never do.

    Some 1.0 to 1.35 for right poses, 1.5 to 2 where two sides were laid onto one.
    """
    differences = normal_differences(observations, surface, c2w)
    axes = c2w[:, :3, 2].double().cpu().numpy()
    angles = np.rad2deg(np.arccos(np.clip(axes @ axes.T, -1, 1)))
    return disorder_of(differences, angles)


def disorder_of(differences: Float[np.ndarray, "V V"], angles: Float[np.ndarray, "V V"]) -> float:
    """`disorder` from the normals' differences and the angles between the views."""
    return float(np.median([_worst(*pair) for pair in zip(differences, angles, strict=True)]))


def _worst(differences: Float[np.ndarray, " V"], angles: Float[np.ndarray, " V"]) -> float:
    """Of one view."""
    known = np.flatnonzero(np.isfinite(differences))
    known = known[np.argsort(angles[known], kind="stable")][:PARTNERS]
    difference, angle = differences[known], angles[known]
    ratio = difference[:, None] / difference[None]
    asked = (angle[:, None] < NEIGHBOURS_DEG) & (angle[None] > angle[:, None] + FARTHER_DEG)
    return float(np.max(ratio, where=asked, initial=1.0))


def normal_differences(
    observations: Observations, surface: SDF, c2w: Float[Tensor, "V 4 4"]
) -> Float[np.ndarray, "V V"]:
    """Mean angle between the normals of each two views at the same points, degrees.

    NaN on the diagonal and where two views have too little in common.
    """
    m, pose = observations, c2w.float()
    generator = torch.Generator(device=m.device).manual_seed(1)
    index = m.sample_pixels(PROBES, generator)
    local = m.directions(m.pixels[index].float(), torch.zeros((), device=m.device))
    R = pose[:, None, :3, :3]
    normals = (R @ m.normals[index][..., None])[..., 0]
    centres = pose[:, None, :3, 3].expand(-1, PROBES, -1)
    x, hit = _seen(surface, centres, (R @ local[..., None])[..., 0])

    maps = _normal_maps(m)
    height, width = m.contour_distance.shape[1:]
    cosines = pose[:, :3, 2] @ pose[:, :3, 2].T
    near = cosines > np.cos(np.deg2rad(PARTNERS_DEG))
    total = torch.full((len(m), len(m)), torch.nan, device=m.device)
    for view in range(len(m)):
        others = torch.nonzero(near[view] & (torch.arange(len(m), device=m.device) != view))[:, 0]
        if not len(others):
            continue
        points, normal = x[others], normals[others]
        inside = (points - pose[view, :3, 3]) @ pose[view, :3, :3]
        pixel = (inside / inside[..., 2:]) @ m.intrinsics[view].T
        u, v = (pixel[..., axis].round().long() for axis in (0, 1))
        shown = (u >= 0) & (u < width) & (v >= 0) & (v < height) & hit[others]
        seen = maps[view, v.clamp(0, height - 1), u.clamp(0, width - 1)]
        rays = normalize(points - pose[view, :3, 3], dim=-1)
        met, there = _seen(surface, pose[view, :3, 3].expand_as(rays), rays)
        same = there & ((met - points).norm(dim=-1) < _SAME_POINT)
        facing = -(normal * rays).sum(-1) > _FACING
        used = shown & same & facing & (seen.norm(dim=-1) > 0)
        cosine = ((seen @ pose[view, :3, :3].T) * normal).sum(-1).clamp(-1, 1)
        angle = torch.rad2deg(torch.acos(cosine)).clamp(max=LARGEST_DEG)
        count = used.sum(1)
        mean = (angle * used).sum(1) / count.clamp(min=1)
        total[view, others] = torch.where(count >= FEWEST, mean, torch.nan)
    both = torch.stack([total, total.T])
    return both.nanmean(0).double().cpu().numpy()


def _seen(
    surface: SDF, origins: Float[Tensor, "*n 3"], directions: Float[Tensor, "*n 3"]
) -> tuple[Float[Tensor, "*n 3"], Bool[Tensor, "*n"]]:
    """Where rays meet the surface, and whether they do."""
    o, d = origins.reshape(-1, 3), directions.reshape(-1, 3)
    near, far = box_interval(o, d)
    hits = trace(surface, o, d, near, far, _LEAST_STEP, _MOST_STEPS)
    x = o + torch.where(hits.mask, hits.distance, near)[:, None] * d
    return x.view(directions.shape), hits.mask.view(directions.shape[:-1])


def _normal_maps(observations: Observations) -> Float[Tensor, "V H W 3"]:
    """The normals (camera frame) as images, zero outside the masks."""
    m = observations
    maps = torch.zeros(*m.contour_distance.shape, 3, device=m.device)
    view = torch.repeat_interleave(
        torch.arange(len(m), device=m.device), m.first_pixel.diff().to(m.device)
    )
    u, v = m.pixels.long().unbind(1)
    maps[view, v, u] = m.normals
    return maps
