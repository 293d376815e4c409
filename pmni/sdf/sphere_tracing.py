"""Where rays first meet the surface of a signed distance function (Hart, 1996)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pmni import kernels
from pmni.errors import DivergenceError
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.sdf import SDF

STEP_FACTOR = 0.9
"""Fraction of |f| that a ray advances: safe for slopes up to 1.1."""
MIN_STEP = 5e-4
"""Smallest step, normalised units: a ray may pass through thinner parts."""
HALF_DIAGONAL = 3**0.5
"""Half the diagonal of the box [-1, 1]^3."""
REFINEMENTS = 8
"""Iterations of regula falsi from a change of sign to the surface."""


@dataclass(frozen=True)
class Hits:
    """First hits of N rays."""

    mask: Bool[Tensor, " N"]
    """Whether the ray meets the surface."""
    distance: Float[Tensor, " N"]
    """Distance from the origin along the ray, normalised units; NaN for a miss."""


@torch.no_grad()
def trace(
    sdf: SDF,
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    near: Float[Tensor, " N"],
    far: Float[Tensor, " N"],
    min_step: float = MIN_STEP,
    max_steps: int | None = None,
) -> Hits:
    """The first change of sign from + to - along rays (unit directions) within [near, far].

    Steps of STEP_FACTOR |f|, at least `min_step` long, until f turns negative; then the crossing
    is solved between the last two points, so that f need not be exactly a distance. A ray that is
    inside at `near` hits there; one with near >= far misses, and so does one without a crossing
    after `max_steps`. Raises DivergenceError when f is not finite.
    """
    if isinstance(sdf, NarrowBandSDF) and kernels.use_triton(near.device):
        from pmni.kernels.rays import first_crossings

        distance = first_crossings(
            sdf.kernel_tensors(), origins, directions, near, far,
            min_step, max_steps, STEP_FACTOR, REFINEMENTS,
        )  # fmt: skip
        return Hits(~distance.isnan(), distance)
    # Distances are counted from the entry point: float32 is coarse at the camera's distance.
    entry = origins + near[:, None] * directions
    span = far - near
    distance = torch.full_like(near, torch.nan)
    ray = torch.nonzero(span > 0)[:, 0]
    t = torch.zeros_like(near[ray])
    f = _values(sdf, entry[ray])
    distance[ray[f < 0]] = 0.0
    ray, t, f = _select(f >= 0, ray, t, f)
    crossings = []
    steps = 0
    while len(ray) and steps != max_steps:
        steps += 1
        ahead = torch.minimum(t + (STEP_FACTOR * f).clamp(min=min_step), span[ray])
        value = _values(sdf, entry[ray] + ahead[:, None] * directions[ray])
        crossings.append(_select(value < 0, ray, t, f, ahead, value))
        ray, t, f = _select((value >= 0) & (ahead < span[ray]), ray, ahead, value)
    if crossings:
        ray, *bracket = (torch.cat(parts) for parts in zip(*crossings, strict=True))
        distance[ray] = _solve(sdf, entry[ray], directions[ray], *bracket)
    return Hits(~distance.isnan(), near + distance)


@torch.no_grad()
def clear_distance(
    sdf: SDF,
    origins: Float[Tensor, "N 3"],
    axes: Float[Tensor, "N 3"],
    spread: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Distance that is free in cones of rays; of those that miss, until they have left the box.

    A cone's rays come from its origin, with unit directions that differ from its axis by `spread`
    at most. It is followed in steps along its axis until no more than its own width is free.
    """
    radius = torch.linalg.vector_norm(origins, dim=-1)
    t, end = (radius - HALF_DIAGONAL).clamp(min=0), radius + HALF_DIAGONAL
    cone = torch.arange(len(t), device=t.device)
    while len(cone):
        width = spread[cone] * t[cone]
        # What is beyond the box is farther from the surface than where it is nearest in the box.
        x = (origins[cone] + t[cone, None] * axes[cone]).clamp(-1, 1)
        step = (STEP_FACTOR * _values(sdf, x) - width) / (1 + spread[cone])
        cone, step = _select(step > width, cone, step)
        t[cone] += step
        (cone,) = _select(t[cone] < end[cone], cone)
    return t


@torch.no_grad()
def visible(
    sdf: SDF,
    points: Float[Tensor, "N 3"],
    centres: Float[Tensor, "N 3"],
    tolerance: float = 5e-3,
) -> Bool[Tensor, " N"]:
    """Whether nothing lies between each surface point and its camera centre.

    The ray is followed from the centre to `tolerance` in front of the point, so that the point may
    be that far off the surface.
    """
    offset = points - centres
    distance = torch.linalg.vector_norm(offset, dim=-1)
    directions = offset / distance[:, None]
    near, far = box_interval(centres, directions)
    hits = trace(sdf, centres, directions, near, torch.minimum(far, distance - tolerance))
    return ~hits.mask


def box_interval(
    origins: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Where rays enter and leave the box [-1, 1]^3; near >= far for those that miss it."""
    tiny = torch.finfo(directions.dtype).tiny
    inverse = 1 / torch.where(directions.abs() < tiny, tiny, directions)
    low, high = (-1 - origins) * inverse, (1 - origins) * inverse
    near = torch.minimum(low, high).amax(-1).clamp(min=0)
    return near, torch.maximum(low, high).amin(-1)


def _solve(
    sdf: SDF,
    entry: Float[Tensor, "M 3"],
    directions: Float[Tensor, "M 3"],
    a: Float[Tensor, " M"],
    value_a: Float[Tensor, " M"],
    b: Float[Tensor, " M"],
    value_b: Float[Tensor, " M"],
) -> Float[Tensor, " M"]:
    """The zero between a (f >= 0) and b (f < 0): regula falsi with the Illinois halving."""
    previous = torch.zeros_like(a)  # the side of the last point: +1 outside, -1 inside
    for _ in range(REFINEMENTS):
        middle = a + (b - a) * (value_a / (value_a - value_b))
        value = _values(sdf, entry + middle[:, None] * directions)
        side = torch.where(value < 0, -1.0, 1.0).to(a.dtype)
        half = torch.where(side == previous, 0.5, 1.0).to(a.dtype)
        outside = side > 0
        a, b = torch.where(outside, middle, a), torch.where(outside, b, middle)
        value_a, value_b = (
            torch.where(outside, value, half * value_a),
            torch.where(outside, half * value_b, value),
        )
        previous = side
    return a + (b - a) * (value_a / (value_a - value_b))


def _values(sdf: SDF, x: Float[Tensor, "M 3"]) -> Float[Tensor, " M"]:
    f = sdf(x)
    bad = int((~torch.isfinite(f)).sum())
    if bad:
        raise DivergenceError(f"sphere tracing: the surface model has {bad} non-finite values")
    return f


def _select(chosen: Bool[Tensor, " M"], *values: Tensor) -> list[Tensor]:
    return [value[chosen] for value in values]
