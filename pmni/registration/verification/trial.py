"""Poses of all views refined together with a coarse surface, and how well that explains them."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from pmni.data.capture import Capture
from pmni.geometry.cameras import invert_rigid
from pmni.refinement.observations import Observations
from pmni.refinement.solver import GaussNewtonSolver
from pmni.registration.multiview.pose_set import differences_deg
from pmni.registration.views import Views
from pmni.sdf.sdf import SDF
from pmni.sdf.sphere_tracing import box_interval, trace

COARSEST, COARSE = 32, 64
"""Cells of the grids on which candidates are refined."""
PROBES = 400
"""Pixels of each view that are compared with the surface."""
CLUELESS_DEG = 40.0
"""An error of a normal from which on it is as good as any; so is a ray that misses."""
DISTINCT_DEG = 12.0
"""Two candidates are different when a view's poses differ by as much."""


@dataclass(frozen=True)
class Trial:
    """A candidate during the test: its poses refined together with a surface."""

    kind: str
    solver: GaussNewtonSolver
    explained: Float[Tensor, " V"]

    @property
    def c2w(self) -> Float[np.ndarray, "V 4 4"]:
        return self.solver.state.c2w().cpu().numpy()

    @property
    def score(self) -> float:
        return float(self.explained.mean())


def explained(
    observations: Observations,
    surface: SDF,
    c2w: Float[Tensor, "V 4 4"],
    view: int | None = None,
) -> Float[Tensor, " K"]:
    """1 - mean angle / CLUELESS_DEG between normals and the surface's, for each view, or for
    each of K poses of one view."""
    m = observations
    generator = torch.Generator(device=m.device).manual_seed(1)
    index = m.sample_pixels(PROBES, generator)
    zero = torch.zeros((), device=m.device)
    local = m.directions(m.pixels[index].float(), zero)
    normals = m.normals[index]
    if view is not None:
        local, normals = local[view, None], normals[view, None]
    R = c2w[:, None, :3, :3].float()
    d = (R @ local[..., None])[..., 0].reshape(-1, 3)
    n = (R @ normals[..., None])[..., 0].reshape(-1, 3)
    o = c2w[:, None, :3, 3].float().expand(-1, PROBES, -1).reshape(-1, 3)
    near, far = box_interval(o, d)
    hits = trace(surface, o, d, near, far, 1 / COARSE, 80)
    x = o + torch.where(hits.mask, hits.distance, near)[:, None] * d
    cosine = (normalize(surface.value_and_gradient(x)[1], dim=-1) * n).sum(-1).clamp(-1, 1)
    angle = torch.rad2deg(torch.acos(cosine)).clamp(max=CLUELESS_DEG)
    angle = torch.where(hits.mask, angle, CLUELESS_DEG)
    return 1 - angle.view(len(c2w), PROBES).mean(1) / CLUELESS_DEG


def elsewhere(first: Trial, second: Trial) -> Bool[np.ndarray, " V"]:
    """Which views are at different places in two trials."""
    R, other = (invert_rigid(trial.c2w)[:, :3, :3] for trial in (first, second))
    return differences_deg(R, other) > DISTINCT_DEG


def margin_over(best: Trial, other: Trial) -> float:
    """By how much better the first explains the views that are at different places."""
    gain = (best.explained - other.explained).cpu().numpy()
    return float(gain[elsewhere(best, other)].mean())


def shrunk(capture: Capture, views: Views) -> Capture:
    """The capture as the search sees it."""
    masks = (views.signed_distance < 0).cpu().numpy()
    normals = views.normals.cpu().numpy() * masks[..., None]
    intrinsics = views.intrinsics.double().cpu().numpy()
    sizes = []
    for index, seen in enumerate(~views.unseen.cpu().numpy()):
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        corner = (-rows[0], -columns[0])  # moves the image's own corner to the first pixel
        masks[index] = np.roll(masks[index], corner, (0, 1))
        normals[index] = np.roll(normals[index], corner, (0, 1))
        intrinsics[index, :2, 2] -= (columns[0], rows[0])
        sizes.append((len(rows), len(columns)))
    return Capture(normals, masks, intrinsics, capture.views, capture.name, sizes=np.array(sizes))


def centred(
    c2w: Float[np.ndarray, "V 4 4"], observations: Observations
) -> Float[np.ndarray, "V 4 4"]:
    """The poses in a world whose origin is nearest to the rays through the masks' centres."""
    local = middles(observations)
    d = np.einsum("vij,vj->vi", c2w[:, :3, :3], local)
    across = np.eye(3) - d[:, :, None] * d[:, None, :]
    origin = np.linalg.solve(across.sum(0), np.einsum("vij,vj->i", across, c2w[:, :3, 3]))
    moved = c2w.copy()
    moved[:, :3, 3] -= origin
    return moved


def middles(observations: Observations) -> Float[np.ndarray, "V 3"]:
    """Camera-frame unit directions to the masks' centres."""
    counts = observations.first_pixel.diff().tolist()
    middle = torch.stack([part.float().mean(0) for part in observations.pixels.split(counts)])
    zero = torch.zeros((), device=middle.device)
    return observations.directions(middle[:, None], zero)[:, 0].double().cpu().numpy()
