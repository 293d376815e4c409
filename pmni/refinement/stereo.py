"""Multi-view stereo on normal maps: where on its ray a pixel's normals are those of other views.

Photometric normals err alike in all views: slopes are drawn towards the camera, concavities are
too shallow. Their integral is then a wrong shape, however many views there are. But the pattern of
a map belongs to a pattern on the surface: seen from two sides, it is in the same place only for
the right distance, whatever both views add to it. The plane sweep (Collins, CVPR 1996) projects
points along the rays of a view into its neighbours and compares normals, and windows of their
detail by normalised cross-correlation. Distances on which several views agree become points that
the surface should pass through: they decide the low frequencies, the normals the high ones (Nehab,
Rusinkiewicz, Davis and Ramamoorthi, SIGGRAPH 2005).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv1d, grid_sample, normalize

from pmni.config.refinement import StereoSettings
from pmni.geometry.cameras import ray_directions
from pmni.refinement.observations import Observations
from pmni.refinement.residuals import Residuals, first_hits
from pmni.refinement.state import ROTATION, SHARED_UNKNOWNS, TRANSLATION, VIEW_UNKNOWNS, State
from pmni.sdf.block_grid import trilinear

DEPTHS_AT_A_TIME = {"cpu": 8, "cuda": 32}
"""Points of a ray that are compared together."""
MIN_CORRELATION_SQUARE = 1e-6
"""Smallest product of the mean squares of two windows: below it there is no pattern to compare."""


@dataclass(frozen=True)
class NormalImages:
    """Normal maps of V views at a lower resolution, turned into the world's axes."""

    normals: Float[Tensor, "V H W 3"]
    """Unit normals; zero outside the masks."""
    detail: Float[Tensor, "V H W 3"]
    """The normals minus their average around each pixel."""
    masks: Bool[Tensor, "V H W"]
    intrinsics: Float[Tensor, "V 3 3"]
    rotations: Float[Tensor, "V 3 3"]
    """Camera to world."""
    centres: Float[Tensor, "V 3"]

    @classmethod
    def of(
        cls, observations: Observations, state: State, reduction: int, detail_px: float
    ) -> "NormalImages":
        """Means over squares of `reduction` pixels; detail is finer than `detail_px` of these."""
        index = observations.pixel_index
        inside = index >= 0
        normals = observations.normals[index.clamp(min=0).long()] * inside[..., None]
        masks = avg_pool2d(inside[:, None].float(), reduction)[:, 0] > 0.5
        normals = avg_pool2d(normals.permute(0, 3, 1, 2), reduction).permute(0, 2, 3, 1)
        normals = normalize(normals, dim=-1) * masks[..., None]
        weight = masks[..., None].float()
        local_mean = _blur(normals, detail_px) / _blur(weight, detail_px).clamp(min=1e-3)
        K = observations.intrinsics.clone()
        focal = torch.exp(state.log_focal)
        K[:, :2, :2] *= focal
        K[:, :2] /= reduction
        K[:, :2, 2] -= (reduction - 1) / (2 * reduction)
        R = state.rotations.float()
        return cls(
            normals=torch.einsum("vij,vhwj->vhwi", R, normals),
            detail=torch.einsum("vij,vhwj->vhwi", R, (normals - local_mean) * weight),
            masks=masks,
            intrinsics=K,
            rotations=R,
            centres=state.centres.float(),
        )

    def rays(self, view: int, rows: slice, columns: slice) -> Float[Tensor, "h w 3"]:
        """Unit directions of a view's pixels, world."""
        device = self.normals.device
        v = torch.arange(rows.start, rows.stop, device=device)
        u = torch.arange(columns.start, columns.stop, device=device)
        v, u = torch.meshgrid(v, u, indexing="ij")
        pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).float()
        inverse = torch.linalg.inv(self.intrinsics[view].cpu()).to(pixels)
        return ray_directions(pixels, inverse) @ self.rotations[view].T

    def project(
        self, others: Int[Tensor, " N"], x: Float[Tensor, "... 3"]
    ) -> tuple[Float[Tensor, "N ... 2"], Float[Tensor, "N ..."]]:
        """Pixels (u, v) of points in N other views, and their distances from the cameras."""
        shape = (len(others), *[1] * (x.ndim - 1))
        offset = x - self.centres[others].view(*shape, 3)
        matrix = (self.intrinsics[others] @ self.rotations[others].mT).mT
        image = (offset.flatten(1, -2) @ matrix).view(offset.shape)
        return image[..., :2] / image[..., 2:], torch.linalg.vector_norm(offset, dim=-1)


@dataclass(frozen=True)
class StereoPoints:
    """Points on which several views agree, the same number of each view."""

    points: Float[Tensor, "V P 3"]
    """Camera frame."""
    valid: Bool[Tensor, "V P"]
    """Whether views agree there; the fraction of valid points is that of such pixels."""


@torch.no_grad()
def match_views(
    observations: Observations,
    state: State,
    settings: StereoSettings,
    local: bool,
    generator: torch.Generator,
) -> StereoPoints:
    """Points of all views' rays on which other views agree; near the surface only, if `local`."""
    reduction = settings.reduction_local if local else settings.reduction
    images = NormalImages.of(observations, state, reduction, settings.detail_px)
    footprint = float(observations.pixel_footprint(state.centres).median()) * reduction
    distance = torch.stack(
        [
            sweep(images, state, view, footprint, settings, local)
            for view in range(len(images.masks))
        ]
    )
    agreeing = count_agreeing(images, distance, settings.consistency_px * footprint, settings)
    points = images.normals.new_zeros(len(distance), settings.points, 3)
    valid = torch.zeros(points.shape[:2], dtype=torch.bool, device=points.device)
    whole = slice(0, distance.shape[1]), slice(0, distance.shape[2])
    for view, mask in enumerate(images.masks):
        v, u = mask.nonzero(as_tuple=True)
        if len(v) == 0:
            continue
        pick = torch.randint(len(v), valid.shape[1:], generator=generator, device=v.device)
        v, u = v[pick], u[pick]
        d = images.rays(view, *whole)[v, u] @ images.rotations[view]
        points[view] = d * distance[view, v, u, None].nan_to_num(0)
        valid[view] = agreeing[view, v, u] >= settings.min_agreeing
    return StereoPoints(points, valid)


def neighbours(images: NormalImages, view: int, settings: StereoSettings) -> Int[Tensor, " N"]:
    """The views nearest to a view as seen from the world's origin, within the bounds of angles."""
    direction = normalize(images.centres, dim=-1)
    angle = torch.rad2deg(torch.arccos((direction @ direction[view]).clamp(-1, 1)))
    fitting = (angle >= settings.min_angle_deg) & (angle <= settings.max_angle_deg)
    order = torch.where(fitting, angle, torch.inf).argsort()
    return order[: min(settings.neighbours, int(fitting.sum()))]


def sweep(
    images: NormalImages,
    state: State,
    view: int,
    footprint: float,
    settings: StereoSettings,
    local: bool,
) -> Float[Tensor, "H W"]:
    """Distance along each ray of a view at which its neighbours agree best; NaN where none does.

    Where it is the best of three neighbouring points, a parabola gives the fraction of a step.
    `footprint` is the width of an averaged pixel at the object; `local` as for `match_views`.
    """
    result = torch.full_like(images.masks[view], torch.nan, dtype=torch.float32)
    others = neighbours(images, view, settings)
    if len(others) < settings.min_agreeing or not images.masks[view].any():
        return result
    rows, columns = _bounding_box(images.masks[view])
    mask = images.masks[view, rows, columns]
    d = images.rays(view, rows, columns)
    centre = images.centres[view]
    step = settings.step_px * footprint
    if local:
        hit, x = first_hits(state.surface, centre.expand(mask.numel(), 3), d.reshape(-1, 3))
        start = torch.linalg.vector_norm(x - centre, dim=-1).view(mask.shape)
        mask = mask & hit.view(mask.shape)
        count = settings.local_steps
        offsets = step * torch.arange(-count, count + 1, device=d.device)
    else:
        start = torch.linalg.vector_norm(centre).expand(mask.shape)
        offsets = torch.arange(-1, 1, step, device=d.device)
    scores = []
    for part in offsets.split(DEPTHS_AT_A_TIME[d.device.type]):
        x = centre + (start + part[:, None, None])[..., None] * d
        score = agreement(images, view, others, (rows, columns), x, settings)
        inside = state.surface(x.view(-1, 3)).view(score.shape) <= settings.max_outside
        scores.append(torch.where(inside & mask, score, 0))
    score = torch.cat(scores)
    best, index = score.max(0)
    inner = index.clamp(1, len(offsets) - 2)
    before, middle, after = (score.gather(0, inner[None] + side)[0] for side in (-1, 0, 1))
    fraction = 0.5 * (before - after) / (before - 2 * middle + after).clamp(max=-1e-6)
    at_end = index != inner
    distance = start + offsets[inner] + fraction.clamp(-0.5, 0.5) * step
    found = mask & ~at_end & (best >= settings.min_score)
    result[rows, columns] = torch.where(found, distance, torch.nan)
    return result


def agreement(
    images: NormalImages,
    view: int,
    others: Int[Tensor, " N"],
    window: tuple[slice, slice],
    x: Float[Tensor, "S h w 3"],
    settings: StereoSettings,
) -> Float[Tensor, "S h w"]:
    """How well points fit the normals of a view and of those of its neighbours that fit best.

    The mean over `best_views` neighbours of the normalised cross-correlation of the normals'
    detail in a window, times exp(-|n_j - n_i|^2 / (2 sigma^2)); zero for a neighbour that may not
    see the point.
    """
    rows, columns = window
    height, width = images.masks.shape[1:]
    n, detail = images.normals[view, rows, columns], images.detail[view, rows, columns]
    uv, _ = images.project(others, x)
    grid = uv * uv.new_tensor([2 / (width - 1), 2 / (height - 1)]) - 1
    layers = torch.cat(
        [images.normals[others], images.detail[others], images.masks[others, ..., None].float()],
        dim=-1,
    )
    shown = grid_sample(layers.permute(0, 3, 1, 2), grid.flatten(1, 2), align_corners=True)
    shown = shown.permute(0, 2, 3, 1).view(*grid.shape[:-1], 7)
    n_other, detail_other, in_mask = shown[..., :3], shown[..., 3:6], shown[..., 6] > 0.9
    centres = images.centres[others].view(-1, 1, 1, 1, 3)
    turned_to = ((n * (centres - x)).sum(-1) > 0) & (
        (n_other * (images.centres[view] - x)).sum(-1) > 0
    )
    may_see = (in_mask & turned_to).float()
    radius = settings.window_px
    product = _box((detail * detail_other).sum(-1) * may_see, radius)
    square = _box(detail.square().sum(-1) * may_see, radius)
    square_other = _box(detail_other.square().sum(-1) * may_see, radius)
    scale = (square * square_other).clamp(min=MIN_CORRELATION_SQUARE**2).sqrt()
    correlation = (product / scale).clamp(min=0)
    similar = torch.exp(-0.5 * (n_other - n).square().sum(-1) / settings.normal_sigma**2)
    enough = _box(may_see, radius) > settings.min_window_fraction
    score = correlation * similar * enough * may_see
    return score.topk(min(settings.best_views, len(others)), dim=0).values.mean(0)


def count_agreeing(
    images: NormalImages,
    distance: Float[Tensor, "V H W"],
    tolerance: float,
    settings: StereoSettings,
) -> Int[Tensor, "V H W"]:
    """Number of neighbours whose own distances put the point of a pixel in the same place."""
    count = torch.zeros_like(distance, dtype=torch.long)
    height, width = distance.shape[1:]
    for view in range(len(distance)):
        others = neighbours(images, view, settings)
        d = images.rays(view, slice(0, height), slice(0, width))
        x = images.centres[view] + distance[view, ..., None].nan_to_num(0) * d
        uv, far = images.project(others, x)
        u, v = uv.round().long().unbind(-1)
        within = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        own = distance[others[:, None, None], v.clamp(0, height - 1), u.clamp(0, width - 1)]
        count[view] = (within & ((own - far).abs() < tolerance)).sum(0)  # NaN compares false
    return count * distance.isfinite()


def stereo_residuals(
    state: State,
    stereo: StereoPoints,
    index: Int[Tensor, "V P"],
) -> Residuals:
    """r = -f at a view's points; d r as for contours.

    A point is fixed to its camera: d r = -u - g . (omega x X + tau), with g = grad f / |grad f|.
    """
    points = stereo.points.gather(1, index[..., None].expand(-1, -1, 3))
    R, C = state.rotations.float(), state.centres.float()
    x = (points @ R.mT + C[:, None]).view(-1, 3)
    sdf = state.surface
    g = normalize(sdf.value_and_gradient(x)[1], dim=-1)
    nodes, fraction, inside = sdf.grid.cell_corners(x)
    weights = trilinear(fraction)
    f = (weights * sdf.values[nodes]).sum(-1)
    view_jacobian = x.new_zeros(len(x), 1, VIEW_UNKNOWNS)
    view_jacobian[:, 0, ROTATION] = -torch.linalg.cross(x, g)
    view_jacobian[:, 0, TRANSLATION] = -g
    exists = stereo.valid.gather(1, index).view(-1)
    return Residuals(
        value=-f[:, None],
        nodes=nodes,
        weights=weights[:, None],
        view_jacobian=view_jacobian,
        shared_jacobian=x.new_zeros(len(x), 1, SHARED_UNKNOWNS),
        valid=(inside & exists).float(),
    )


def _blur(image: Float[Tensor, "V H W C"], sigma: float) -> Float[Tensor, "V H W C"]:
    """Gaussian blur of images that are zero beyond their borders."""
    radius = int(3 * sigma + 1)
    offsets = torch.arange(-radius, radius + 1, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    for axis in (1, 2):
        lines = image.movedim(axis, -1)
        blurred = conv1d(lines.reshape(-1, 1, lines.shape[-1]), kernel, padding=radius)
        image = blurred.view(lines.shape).movedim(-1, axis)
    return image


def _box(image: Float[Tensor, "N S h w"], radius: int) -> Float[Tensor, "N S h w"]:
    """Means over squares of 2 radius + 1 pixels."""
    return avg_pool2d(image, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


def _bounding_box(mask: Bool[Tensor, "H W"]) -> tuple[slice, slice]:
    """Rows and columns that hold the mask."""
    v, u = mask.nonzero(as_tuple=True)
    return slice(int(v.min()), int(v.max()) + 1), slice(int(u.min()), int(u.max()) + 1)
