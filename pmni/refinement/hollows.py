"""Hollows that the surface closes over: where the views agree farther along a pixel's ray.

The visual hull fills hollows, and normals alone do not always open them: where an arm hides the
edge of a hollow, the surface hangs from the arm like a web. Views see the hollow's ground through
it, each at another place of the web, so no slope of the web fits them all. But at the true point of
the ground their normals are the same. Points along the ray are therefore projected into the other
views, as a plane sweep does (Collins, CVPR 1996), with normals in place of colours: they say which
views can see the point, and they do not depend on the light.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from pmni.fields.block_grid import trilinear
from pmni.refinement.estimate import COMMON_UNKNOWNS, VIEW_UNKNOWNS, Estimate
from pmni.refinement.measurements import Measurements
from pmni.refinement.residuals import Residuals, first_hits, rays_through

MISLED = 0.26
"""Length of the residual from which a pixel's normal may be that of another point of its ray."""
DEPTHS, DEPTH_STEP = 24, 0.25
"""How many points behind the surface are looked at, and their distance, cells."""
ALIKE = 0.14
"""Standard deviation of normals of the same point, radians."""
BESIDE = 3.0
"""Pixels outside of a mask beyond which a point is none of the object's."""
LEAST_FACING = 0.15
"""Least cosine between a normal and the direction to a camera that may see it."""
FEWEST_VIEWS, MORE_VIEWS, MORE_OFTEN = 2.5, 0.5, 1.3
"""That agree: at least so many, and so many more and so many times as many as at the surface."""
AS_GOOD = 0.9
"""The nearest point at which this part of the most agree is the pixel's."""
AT_A_TIME = {"cpu": 1, "cuda": 4}
"""Other views that are looked into together: on a GPU launches take the time."""
LEAST_DEPTH, LONGEST_PUSH = 2, 0.7
"""Points nearer than this many are left to the normals' own residuals; and how far the surface is
pushed at a time, cells."""


def hollow_residuals(
    measurements: Measurements, estimate: Estimate, index: Int[Tensor, "V P"]
) -> Residuals:
    """r = push - f where the rays of pixels meet the surface, d r = -u there.

    `push` leads towards the ray's point where other views agree with the pixel's normal. Not valid
    where they agree no better than at the surface.
    """
    grid = estimate.surface.grid
    view = torch.arange(len(index), device=index.device).repeat_interleave(index.shape[1])
    _, origin, d = rays_through(measurements, estimate, measurements.pixels[index].float())
    hit, x = first_hits(estimate.surface, origin, d)
    R = estimate.rotations.float()
    n = (R[view] @ measurements.normals[index.view(-1), :, None])[..., 0]
    step = DEPTH_STEP * grid.spacing
    depth = step * torch.arange(DEPTHS + 1, device=x.device)
    along = x[:, None] + depth[:, None] * d[:, None]
    votes = agreement(measurements, estimate, along, n, view)
    most = votes.max(dim=1).values
    nearest = (votes >= AS_GOOD * most[:, None]).int().argmax(dim=1)
    better = most > MORE_OFTEN * votes[:, 0] + MORE_VIEWS
    opens = better & (most >= FEWEST_VIEWS) & (nearest >= LEAST_DEPTH)
    facing = -(n * d).sum(-1)
    push = (nearest * step * facing).clamp(max=LONGEST_PUSH * grid.spacing)
    rows, place, inside = grid.corners(x)
    weights = trilinear(place)
    return Residuals(
        value=(push - (weights * estimate.surface.values[rows]).sum(-1))[:, None],
        rows=rows,
        weights=weights[:, None],
        by_view=x.new_zeros(len(x), 1, VIEW_UNKNOWNS),
        by_common=x.new_zeros(len(x), 1, COMMON_UNKNOWNS),
        valid=(opens & hit & inside & (facing > LEAST_FACING)).float(),
    )


def agreement(
    measurements: Measurements,
    estimate: Estimate,
    x: Float[Tensor, "K D 3"],
    n: Float[Tensor, "K 3"],
    view: Int[Tensor, "K"],
) -> Float[Tensor, "K D"]:
    """How many other views show the normals n at points of rays; views in between count in part.

    Zero from where a ray leaves the object by a mask.
    """
    height, width = measurements.index_at.shape[1:]
    votes = x.new_zeros(x.shape[:2])
    inside: Bool[Tensor, "K D"] = torch.ones_like(votes, dtype=torch.bool)
    focal = torch.exp(estimate.log_focal)
    scale = torch.stack([focal, focal, torch.ones_like(focal)])
    for others in torch.arange(len(measurements), device=x.device).split(AT_A_TIME[x.device.type]):
        other = others[:, None, None]
        R, C = estimate.rotations[others, None].float(), estimate.centres[others].float()
        towards = C[:, None, None] - x  # (others, K, D, 3); what follows has these dimensions, too
        local = -towards @ R
        image = local / local[..., 2:] * scale @ measurements.intrinsics[others, None, :2].mT
        u, v = image.round().long().unbind(-1)
        u, v = u.clamp(0, width - 1), v.clamp(0, height - 1)
        inside &= (measurements.mask_distances[other, v, u] <= BESIDE).all(0)
        index = measurements.index_at[other, v, u]
        theirs = measurements.normals[index.clamp(min=0).long()] @ R.mT
        cosine = (n[:, None] * normalize(towards, dim=-1)).sum(-1)
        may_see = (index >= 0) & (cosine > LEAST_FACING) & (view[:, None] != other)
        apart = (theirs - n[:, None]).square().sum(-1)
        votes += (may_see * torch.exp(-0.5 * apart / ALIKE**2)).sum(0)
    return votes * inside.cumprod(dim=1)
