"""Concavities that the surface bridges, and surfaces that have sunk: where other views agree.

The visual hull fills concavities, and normals alone do not always open them: where a protrusion
hides the edge of a concavity, a spurious bridging surface hangs from it. Views see the ground of
the concavity through it, each at another point of the bridge, so no slope of the bridge fits them
all. But at the true point of the ground their normals are the same. Points along the ray, in front
of the surface and behind it, are therefore projected into the other views, as a plane sweep does
(Collins, CVPR 1996), with normals in place of colours: they say which views can see the point, and
they do not depend on the light. Where too few views see the ground to agree, the bridge recedes, as
in space carving (Kutulakos and Seitz, IJCV 2000): views that see it show other normals there than
its own, which is a free-space violation.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from pmni.config.refinement import ConcavitySettings, ResidualSettings
from pmni.refinement.observations import Observations
from pmni.refinement.residuals import DEFAULTS as DEFAULT_RESIDUALS
from pmni.refinement.residuals import Residuals, first_hits, rays_through
from pmni.refinement.state import SHARED_UNKNOWNS, VIEW_UNKNOWNS, State
from pmni.sdf.block_grid import trilinear
from pmni.sdf.sphere_tracing import visible

VIEWS_AT_A_TIME = {"cpu": 1, "cuda": 4}
"""Other views that are looked into together: on a GPU launches take the time."""


def concavity_residuals(
    observations: Observations,
    state: State,
    index: Int[Tensor, "V P"],
    settings: ConcavitySettings,
    residuals: ResidualSettings = DEFAULT_RESIDUALS,
) -> Residuals:
    """r = target displacement - f where the rays of pixels meet the surface, d r = -u there.

    The target displacement leads towards the ray's point where other views agree with the pixel's
    normal, and inwards at a free-space violation. Not valid where there is neither.
    """
    grid = state.surface.grid
    view = torch.arange(len(index), device=index.device).repeat_interleave(index.shape[1])
    _, origin, d = rays_through(observations, state, observations.pixels[index].float())
    hit, x = first_hits(state.surface, origin, d, residuals)
    R = state.rotations.float()
    n = (R[view] @ observations.normals[index.view(-1), :, None])[..., 0]
    step = settings.sample_distance_cells * grid.spacing
    longest = settings.max_displacement_cells * grid.spacing
    front, behind = settings.samples_in_front, settings.samples_behind
    steps = torch.arange(-front, behind + 1, device=x.device)
    samples = x[:, None] + (step * steps)[:, None] * d[:, None]
    votes = count_votes(observations, state, samples, n, view, settings)
    surface_votes, most = votes[:, front], votes.max(dim=1).values
    distance = 2 * steps.abs() + (steps < 0)  # of two that are as far, the one behind
    worse = votes < settings.near_best_fraction * most[:, None]
    nearest = steps[torch.where(worse, 2 * len(steps), distance).argmin(dim=1)]
    better = most > settings.votes_ratio * surface_votes + settings.votes_margin
    agreed = better & (most >= settings.min_votes) & (nearest.abs() >= settings.min_samples_away)
    doubtful = hit & ~agreed & (surface_votes < settings.max_supporting_votes)
    violation = torch.zeros_like(doubtful)
    violation[doubtful] = free_space_violations(
        observations, state, x[doubtful], view[doubtful], settings
    )
    facing = -(n * d).sum(-1)
    displacement = (nearest * step * facing).clamp(-longest, longest)
    displacement = torch.where(violation, longest, displacement)
    nodes, fraction, inside = grid.cell_corners(x)
    weights = trilinear(fraction)
    valid = (agreed | violation) & hit & inside & (facing > settings.min_visible_cosine)
    return Residuals(
        value=(displacement - (weights * state.surface.values[nodes]).sum(-1))[:, None],
        nodes=nodes,
        weights=weights[:, None],
        view_jacobian=x.new_zeros(len(x), 1, VIEW_UNKNOWNS),
        shared_jacobian=x.new_zeros(len(x), 1, SHARED_UNKNOWNS),
        valid=valid.float(),
    )


def count_votes(
    observations: Observations,
    state: State,
    x: Float[Tensor, "K D 3"],
    n: Float[Tensor, "K 3"],
    view: Int[Tensor, " K"],
    settings: ConcavitySettings,
) -> Float[Tensor, "K D"]:
    """Number of other views that show the normals n at D points of each ray, in fractions.

    Of each ray, point `samples_in_front` is on the surface. Zero from where the ray, followed from
    there either way, leaves the object by a mask.
    """
    votes = x.new_zeros(x.shape[:2])
    within: Bool[Tensor, "K D"] = torch.ones_like(votes, dtype=torch.bool)
    every = torch.arange(len(observations), device=x.device)
    for others in every.split(VIEWS_AT_A_TIME[x.device.type]):
        may_see, similarity, in_mask = compare_views(
            observations, state, others, x, n, view, settings
        )
        votes += (may_see * similarity).sum(0)
        within &= in_mask.all(0)
    surface = settings.samples_in_front
    front, behind = within[:, :surface], within[:, surface:]
    return votes * torch.cat([front.flip(1).cumprod(1).flip(1), behind.cumprod(1)], dim=1)


def free_space_violations(
    observations: Observations,
    state: State,
    x: Float[Tensor, "K 3"],
    view: Int[Tensor, " K"],
    settings: ConcavitySettings,
) -> Bool[Tensor, " K"]:
    """Whether other views see these surface points, and hardly any shows the surface's normal."""
    sdf = state.surface
    n = normalize(sdf.value_and_gradient(x)[1], dim=-1)
    others = torch.arange(len(observations), device=x.device)
    may_see, similarity, _ = compare_views(
        observations, state, others, x[:, None], n, view, settings
    )
    other, point = may_see[..., 0].nonzero(as_tuple=True)
    lifted = x + settings.visibility_offset_cells * sdf.grid.spacing * n
    sees = visible(sdf, lifted[point], state.centres[other].float(), tolerance=0.0)
    seeing = x.new_zeros(len(x)).index_add_(0, point, sees.float())
    supported = (may_see * similarity)[..., 0].sum(0) >= settings.max_supporting_votes
    return (seeing >= settings.min_violating_views) & ~supported


def compare_views(
    observations: Observations,
    state: State,
    others: Int[Tensor, " O"],
    x: Float[Tensor, "K D 3"],
    n: Float[Tensor, "K 3"],
    view: Int[Tensor, " K"],
    settings: ConcavitySettings,
) -> tuple[Bool[Tensor, "O K D"], Float[Tensor, "O K D"], Bool[Tensor, "O K D"]]:
    """What other views show at D points of each ray, if these have the normals n.

    Returns:
        Whether the view may see the point, which is in its mask and turned to it (what lies between
        is not asked); the similarity to n of the normal that it shows there, from 0 to 1; and
        whether the point is in its mask or just beside.
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
    in_mask = observations.contour_distance[other, v, u] <= settings.mask_margin_px
    index = observations.pixel_index[other, v, u]
    shown = observations.normals[index.clamp(min=0).long()]
    facing = (n[:, None] * towards).sum(-1) / torch.linalg.vector_norm(towards, dim=-1)
    turned_to = facing > settings.min_visible_cosine
    may_see = (index >= 0) & turned_to & (view[:, None] != other)
    difference = (shown - (n @ R).transpose(1, 2)).square().sum(-1)
    return may_see, torch.exp(-0.5 * difference / settings.normal_sigma**2), in_mask
