"""Trials: candidate poses refined together with a coarse surface, and their normal consistency."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from pmni.config.registration import VerificationSettings
from pmni.data.capture import Capture
from pmni.geometry.cameras import invert_rigid
from pmni.geometry.rays import nearest_point
from pmni.refinement.observations import Observations
from pmni.refinement.residuals import contour_residuals
from pmni.refinement.solver import GaussNewtonSolver
from pmni.registration.multiview.pose_set import differences_deg
from pmni.registration.working_views import WorkingViews
from pmni.sdf.sdf import SDF
from pmni.sdf.sphere_tracing import box_interval, trace

COARSE_CELLS = 32
"""Cells along each side of the grid on which all candidates are refined."""
FINE_CELLS = 64
"""Cells along each side of the grid on which the leading candidates are refined."""
MAX_TRACE_STEPS = 80
"""Most steps of sphere tracing."""
SUBPIXEL = 0.1
"""Contour distances below this say nothing, pixels."""


@dataclass(frozen=True)
class Trial:
    """A candidate whose poses were refined together with a surface."""

    assumption: str
    """What the strategy assumed that found the candidate."""
    solver: GaussNewtonSolver
    normal_consistency: Float[Tensor, " V"]

    @property
    def c2w(self) -> Float[np.ndarray, "V 4 4"]:
        """The refined poses."""
        return self.solver.state.c2w().cpu().numpy()

    @property
    def score(self) -> float:
        """The mean normal consistency."""
        return float(self.normal_consistency.mean())


def normal_consistency(
    observations: Observations,
    surface: SDF,
    c2w: Float[Tensor, "V 4 4"],
    settings: VerificationSettings,
    view: int | None = None,
) -> Float[Tensor, " K"]:
    """1 - mean angle / saturation angle between observed normals and the surface's, of each view,
    or of one view at each of K poses; angles saturate, and rays that miss count as saturated."""
    generator = torch.Generator(device=observations.device).manual_seed(1)
    index = observations.sample_pixels(settings.probes, generator)
    zero = torch.zeros((), device=observations.device)
    local = observations.directions(observations.pixels[index].float(), zero)
    normals = observations.normals[index]
    if view is not None:
        local, normals = local[view, None], normals[view, None]
    R = c2w[:, None, :3, :3].float()
    d = (R @ local[..., None])[..., 0].reshape(-1, 3)
    n = (R @ normals[..., None])[..., 0].reshape(-1, 3)
    o = c2w[:, None, :3, 3].float().expand(-1, settings.probes, -1).reshape(-1, 3)
    near, far = box_interval(o, d)
    hits = trace(surface, o, d, near, far, 1 / FINE_CELLS, MAX_TRACE_STEPS)
    x = o + torch.where(hits.mask, hits.distance, near)[:, None] * d
    cosine = (normalize(surface.value_and_gradient(x)[1], dim=-1) * n).sum(-1).clamp(-1, 1)
    saturation = settings.saturation_deg
    angle = torch.rad2deg(torch.acos(cosine)).clamp(max=saturation)
    angle = torch.where(hits.mask, angle, saturation)
    return 1 - angle.view(len(c2w), settings.probes).mean(1) / saturation


def differing_views(first: Trial, second: Trial, separation_deg: float) -> Bool[np.ndarray, " V"]:
    """Whether each view's pose differs between two trials by more than the separation."""
    R, other = (invert_rigid(trial.c2w)[:, :3, :3] for trial in (first, second))
    return differences_deg(R, other) > separation_deg


def margin_over(best: Trial, other: Trial, separation_deg: float) -> float:
    """Mean difference of the consistency of the views whose poses differ between two trials."""
    gain = (best.normal_consistency - other.normal_consistency).cpu().numpy()
    return float(gain[differing_views(best, other, separation_deg)].mean())


def contour_distances(trial: Trial, points: int) -> Float[np.ndarray, " V"]:
    """Median distance of each view's contour points from the surface's silhouette, pixels."""
    solver = trial.solver
    observations, state = solver.observations, solver.state
    generator = torch.Generator(device=observations.device).manual_seed(1)
    index = observations.sample_contour(points, generator)
    residuals = contour_residuals(observations, state, index, solver.settings.residuals)
    distances = residuals.lengths().masked_fill(residuals.valid == 0, torch.nan)
    medians = distances.view(index.shape).nanmedian(dim=1).values
    return (medians / observations.pixel_footprint(state.centres)).double().cpu().numpy()


def contour_ratio(
    first: Float[np.ndarray, " V"], second: Float[np.ndarray, " V"], significance: float
) -> float:
    """Factor by which the second contour distances exceed the first, the geometric mean over the
    views; 1 unless the mean logarithm is `significance` standard errors from zero."""
    logs = np.log(second + SUBPIXEL) - np.log(first + SUBPIXEL)
    logs = logs[np.isfinite(logs)]
    if len(logs) < 2 or abs(logs.mean()) < significance * logs.std(ddof=1) / np.sqrt(len(logs)):
        return 1.0
    return float(np.exp(logs.mean()))


def downsampled(capture: Capture, views: WorkingViews) -> Capture:
    """The capture at the resolution of its working views."""
    masks = (views.signed_distance < 0).cpu().numpy()
    normals = views.normals.cpu().numpy() * masks[..., None]
    intrinsics = views.intrinsics.double().cpu().numpy()
    sizes = []
    for index, observed in enumerate(~views.unobserved.cpu().numpy()):
        rows, columns = np.flatnonzero(observed.any(1)), np.flatnonzero(observed.any(0))
        corner = (-rows[0], -columns[0])  # moves the corner of the image to the first pixel
        masks[index] = np.roll(masks[index], corner, (0, 1))
        normals[index] = np.roll(normals[index], corner, (0, 1))
        intrinsics[index, :2, 2] -= (columns[0], rows[0])
        sizes.append((len(rows), len(columns)))
    return Capture(normals, masks, intrinsics, capture.views, capture.name, sizes=np.array(sizes))


def centred(
    c2w: Float[np.ndarray, "V 4 4"], observations: Observations
) -> Float[np.ndarray, "V 4 4"]:
    """The poses in a world whose origin is nearest to the rays through the masks' centroids."""
    local = mask_centroids(observations)
    directions = np.einsum("vij,vj->vi", c2w[:, :3, :3], local)
    moved = c2w.copy()
    moved[:, :3, 3] -= nearest_point(c2w[:, :3, 3], directions)
    return moved


def mask_centroids(observations: Observations) -> Float[np.ndarray, "V 3"]:
    """Camera-frame unit directions to the masks' centroids."""
    counts = observations.first_pixel.diff().tolist()
    pixels = torch.stack([part.float().mean(0) for part in observations.pixels.split(counts)])
    zero = torch.zeros((), device=pixels.device)
    return observations.directions(pixels[:, None], zero)[:, 0].double().cpu().numpy()
