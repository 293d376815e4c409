"""Neighbour inconsistency: whether views disagree more with neighbours than with farther views.

The normals of two views at the same surface points differ by their errors, and because errors of
the surface disturb the correspondence, which grows with the angle between the views. Where the
views of two sides of an object were registered onto one side, a view agrees better with farther
views of its own side than with neighbours of the other, whatever the errors are.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from pmni.data.view_sampling import nearest_normals, project_into_views
from pmni.refinement.observations import Observations
from pmni.sdf.sdf import SDF
from pmni.sdf.sphere_tracing import box_interval, trace

PROBES = 300
"""Pixels of each view whose surface points are projected into the others."""
MIN_COMMON_POINTS = 25
"""Fewest surface points that a pair of views must have in common."""
NEIGHBOUR_DEG = 45.0
"""Largest angle between neighbouring views, degrees."""
PARTNER_DEG = 70.0
"""Largest angle between views that are compared, degrees."""
MAX_PARTNERS = 12
"""Most views that each is compared with, the nearest ones."""
FARTHER_DEG = 5.0
"""Least angle by which a view is farther than a neighbour, degrees."""
SATURATION_DEG = 40.0
"""Upper bound of differences of normals, degrees."""
SAME_POINT = 0.05
"""Largest distance between two hits that count as the same point, normalised units."""
MIN_TRACE_STEP = 1 / 64
"""Least step of sphere tracing, normalised units."""
MAX_TRACE_STEPS = 80
"""Most steps of sphere tracing."""
MIN_FACING = 0.2
"""Least cosine between a normal and the direction to a camera that observes it."""


def neighbour_inconsistency(
    observations: Observations, surface: SDF, c2w: Float[Tensor, "V 4 4"]
) -> float:
    """Ratio of the difference of a view's normals to a neighbour's and to a farther view's.

    The largest ratio of each view (at least 1), the median over the views: 1.0 to 1.35 for right
    poses, 1.5 to 2 where two sides were registered onto one.
    """
    differences = normal_differences(observations, surface, c2w)
    axes = c2w[:, :3, 2].double().cpu().numpy()
    angles = np.rad2deg(np.arccos(np.clip(axes @ axes.T, -1, 1)))
    return inconsistency_of(differences, angles)


def inconsistency_of(
    differences: Float[np.ndarray, "V V"], angles: Float[np.ndarray, "V V"]
) -> float:
    """`neighbour_inconsistency` from differences of normals and angles between views, degrees."""
    ratios = [_largest_ratio(*view) for view in zip(differences, angles, strict=True)]
    return float(np.median(ratios))


def _largest_ratio(differences: Float[np.ndarray, " V"], angles: Float[np.ndarray, " V"]) -> float:
    """The largest ratio of one view, at least 1."""
    partners = np.flatnonzero(np.isfinite(differences))
    partners = partners[np.argsort(angles[partners], kind="stable")][:MAX_PARTNERS]
    difference, angle = differences[partners], angles[partners]
    ratio = difference[:, None] / difference[None]
    compared = (angle[:, None] < NEIGHBOUR_DEG) & (angle[None] > angle[:, None] + FARTHER_DEG)
    return float(np.max(ratio, where=compared, initial=1.0))


def normal_differences(
    observations: Observations, surface: SDF, c2w: Float[Tensor, "V 4 4"]
) -> Float[np.ndarray, "V V"]:
    """Mean angle between the normals of each two views at the same surface points, degrees.

    NaN on the diagonal and where two views have too few points in common.
    """
    m, pose = observations, c2w.float()
    generator = torch.Generator(device=m.device).manual_seed(1)
    index = m.sample_pixels(PROBES, generator)
    local = m.directions(m.pixels[index].float(), torch.zeros((), device=m.device))
    R = pose[:, None, :3, :3]
    normals = (R @ m.normals[index][..., None])[..., 0]
    centres = pose[:, None, :3, 3].expand(-1, PROBES, -1)
    x, hit = _hits(surface, centres, (R @ local[..., None])[..., 0])

    maps = _normal_maps(m)
    cosines = pose[:, :3, 2] @ pose[:, :3, 2].T
    near = cosines > np.cos(np.deg2rad(PARTNER_DEG))
    total = torch.full((len(m), len(m)), torch.nan, device=m.device)
    for view in range(len(m)):
        others = torch.nonzero(near[view] & (torch.arange(len(m), device=m.device) != view))[:, 0]
        if not len(others):
            continue
        points, normal = x[others], normals[others]
        seen_by = torch.full((points.shape[:2].numel(),), view, device=m.device)
        pixel = project_into_views(points.flatten(0, 1), seen_by, pose, m.intrinsics)
        observed = nearest_normals(pixel, seen_by, maps).view_as(points)
        rays = normalize(points - pose[view, :3, 3], dim=-1)
        visible_points, hits = _hits(surface, pose[view, :3, 3].expand_as(rays), rays)
        same = hits & ((visible_points - points).norm(dim=-1) < SAME_POINT)
        facing = -(normal * rays).sum(-1) > MIN_FACING
        used = hit[others] & same & facing & (observed.norm(dim=-1) > 0)
        cosine = ((observed @ pose[view, :3, :3].T) * normal).sum(-1).clamp(-1, 1)
        angle = torch.rad2deg(torch.acos(cosine)).clamp(max=SATURATION_DEG)
        count = used.sum(1)
        mean = (angle * used).sum(1) / count.clamp(min=1)
        total[view, others] = torch.where(count >= MIN_COMMON_POINTS, mean, torch.nan)
    both = torch.stack([total, total.T])
    return both.nanmean(0).double().cpu().numpy()


def _hits(
    surface: SDF, origins: Float[Tensor, "*n 3"], directions: Float[Tensor, "*n 3"]
) -> tuple[Float[Tensor, "*n 3"], Bool[Tensor, "*n"]]:
    """First hits of rays with the surface, and whether there are any."""
    o, d = origins.reshape(-1, 3), directions.reshape(-1, 3)
    near, far = box_interval(o, d)
    hits = trace(surface, o, d, near, far, MIN_TRACE_STEP, MAX_TRACE_STEPS)
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
