"""Where the surface closes over hollows, or has sunk: views agree at another point of a ray.

The visual hull fills hollows, and normals alone do not always open them: where an arm hides the
edge of a hollow, the surface hangs from the arm like a web. Views see the hollow's ground through
it, each at another place of the web, so no slope of the web fits them all. But at the true point of
the ground their normals are the same. Points along the ray, before and behind the surface, are
therefore projected into the other views, as a plane sweep does (Collins, CVPR 1996), with normals
in place of colours: they say which views can see the point, and they do not depend on the light.
Where too few views see the ground to agree, the web itself gives way, as in space carving
(Kutulakos and Seitz, IJCV 2000): views that see it show other normals there than its own.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from pmni.refinement.observations import Observations
from pmni.refinement.residuals import Residuals, first_hits, rays_through
from pmni.refinement.state import SHARED_UNKNOWNS, VIEW_UNKNOWNS, State
from pmni.sdf.block_grid import trilinear
from pmni.sdf.sphere_tracing import visible

MISLED = 0.26
"""Length of the residual from which a pixel's normal may be that of another point of its ray."""
BEFORE, BEHIND, STEP = 12, 24, 0.25
"""How many points before and behind the surface are looked at, and their distance, cells."""
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
FEWEST_SEEING, ALONE = 3, 1.0
"""A point of the surface is refuted if at least so many other views see it, and less than so many
agree with the pixel's normal and with the surface's own."""
LIFTED = 0.5
"""How far off the surface its point is when it is asked who sees it, cells."""
AT_A_TIME = {"cpu": 1, "cuda": 4}
"""Other views that are looked into together: on a GPU launches take the time."""
LEAST_STEPS, LONGEST_PUSH = 2, 0.7
"""Points nearer than this many are left to the normals' own residuals; and how far the surface is
pushed at a time, cells."""


def concavity_residuals(
    observations: Observations, state: State, index: Int[Tensor, "V P"]
) -> Residuals:
    """r = push - f where the rays of pixels meet the surface, d r = -u there.

    `push` leads towards the ray's point where other views agree with the pixel's normal, and
    inwards where they refute the surface instead. Not valid where they do neither.
    """
    grid = state.surface.grid
    view = torch.arange(len(index), device=index.device).repeat_interleave(index.shape[1])
    _, origin, d = rays_through(observations, state, observations.pixels[index].float())
    hit, x = first_hits(state.surface, origin, d)
    R = state.rotations.float()
    n = (R[view] @ observations.normals[index.view(-1), :, None])[..., 0]
    step, longest = STEP * grid.spacing, LONGEST_PUSH * grid.spacing
    steps = torch.arange(-BEFORE, BEHIND + 1, device=x.device)
    along = x[:, None] + (step * steps)[:, None] * d[:, None]
    votes = agreement(observations, state, along, n, view)
    here, most = votes[:, BEFORE], votes.max(dim=1).values
    distance = 2 * steps.abs() + (steps < 0)  # of two that are as far, the one behind
    worse = votes < AS_GOOD * most[:, None]
    nearest = steps[torch.where(worse, 2 * len(steps), distance).argmin(dim=1)]
    better = most > MORE_OFTEN * here + MORE_VIEWS
    elsewhere = better & (most >= FEWEST_VIEWS) & (nearest.abs() >= LEAST_STEPS)
    doubtful = hit & ~elsewhere & (here < ALONE)
    violates = torch.zeros_like(doubtful)
    violates[doubtful] = refuted(observations, state, x[doubtful], view[doubtful])
    facing = -(n * d).sum(-1)
    push = (nearest * step * facing).clamp(-longest, longest)
    push = torch.where(violates, longest, push)
    rows, place, inside = grid.cell_corners(x)
    weights = trilinear(place)
    valid = (elsewhere | violates) & hit & inside & (facing > LEAST_FACING)
    return Residuals(
        value=(push - (weights * state.surface.values[rows]).sum(-1))[:, None],
        rows=rows,
        weights=weights[:, None],
        view_jacobian=x.new_zeros(len(x), 1, VIEW_UNKNOWNS),
        shared_jacobian=x.new_zeros(len(x), 1, SHARED_UNKNOWNS),
        valid=valid.float(),
    )


def agreement(
    observations: Observations,
    state: State,
    x: Float[Tensor, "K D 3"],
    n: Float[Tensor, "K 3"],
    view: Int[Tensor, " K"],
) -> Float[Tensor, "K D"]:
    """How many other views show the normals n at points of rays; views in between count in part.

    Of each ray, point BEFORE is on the surface. Zero from where the ray, followed from there either
    way, leaves the object by a mask.
    """
    votes = x.new_zeros(x.shape[:2])
    within: Bool[Tensor, "K D"] = torch.ones_like(votes, dtype=torch.bool)
    for others in torch.arange(len(observations), device=x.device).split(AT_A_TIME[x.device.type]):
        may_see, alike, in_mask = shown_by(observations, state, others, x, n, view)
        votes += (may_see * alike).sum(0)
        within &= in_mask.all(0)
    before, behind = within[:, :BEFORE], within[:, BEFORE:]
    return votes * torch.cat([before.flip(1).cumprod(1).flip(1), behind.cumprod(1)], dim=1)


def refuted(
    observations: Observations,
    state: State,
    x: Float[Tensor, "K 3"],
    view: Int[Tensor, " K"],
) -> Bool[Tensor, " K"]:
    """Whether other views see these points of the surface, and hardly any shows its normal."""
    sdf = state.surface
    n = normalize(sdf.value_and_gradient(x)[1], dim=-1)
    others = torch.arange(len(observations), device=x.device)
    may_see, alike, _ = shown_by(observations, state, others, x[:, None], n, view)
    other, point = may_see[..., 0].nonzero(as_tuple=True)
    lifted = x + LIFTED * sdf.grid.spacing * n
    sees = visible(sdf, lifted[point], state.centres[other].float(), tolerance=0.0)
    seeing = x.new_zeros(len(x)).index_add_(0, point, sees.float())
    return (seeing >= FEWEST_SEEING) & ((may_see * alike)[..., 0].sum(0) < ALONE)


def shown_by(
    observations: Observations,
    state: State,
    others: Int[Tensor, " O"],
    x: Float[Tensor, "K D 3"],
    n: Float[Tensor, "K 3"],
    view: Int[Tensor, " K"],
) -> tuple[Bool[Tensor, "O K D"], Float[Tensor, "O K D"], Bool[Tensor, "O K D"]]:
    """What other views show at D points of each ray, if these have the normals n.

    Returns:
        Whether the view may see the point, which is in its mask and turned to it (what lies between
        is not asked); how much like n the normal is that it shows there, from 0 to 1; and whether
        the point is in its mask or just beside.
    """
    height, width = observations.pixel_index.shape[1:]
    focal = torch.exp(state.log_focal)
    scale = torch.stack([focal, focal, torch.ones_like(focal)])
    other = others[:, None, None]
    R, C = state.rotations[others, None].float(), state.centres[others].float()
    towards = C[:, None, None] - x
    image = towards @ (observations.intrinsics[others, None] * scale @ R.mT).mT  # homogeneous
    u, v = (image[..., :2] / image[..., 2:]).round().long().unbind(-1)
    u, v = u.clamp(0, width - 1), v.clamp(0, height - 1)
    in_mask = observations.contour_distance[other, v, u] <= BESIDE
    index = observations.pixel_index[other, v, u]
    theirs = observations.normals[index.clamp(min=0).long()]
    facing = (n[:, None] * towards).sum(-1) / torch.linalg.vector_norm(towards, dim=-1)
    may_see = (index >= 0) & (facing > LEAST_FACING) & (view[:, None] != other)
    apart = (theirs - (n @ R).transpose(1, 2)).square().sum(-1)
    return may_see, torch.exp(-0.5 * apart / ALIKE**2), in_mask
