"""Candidates put to the test: how well one surface explains all views from their poses.

Each candidate's poses are refined together with a coarse surface. That corrects errors of several
degrees; views that the surface then does not explain are tried at all other places that the pairs
of views suggest. The best candidate stands, unless the views do not determine the poses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.functional import normalize

from pmni.cameras import invert_rigid
from pmni.capture.capture import Capture
from pmni.config.refinement import RefineSettings
from pmni.errors import ConvergenceError, LostSurfaceError
from pmni.fields.grid import grid_nodes
from pmni.fields.sdf import SDF
from pmni.refinement.hull import hull
from pmni.refinement.measurements import Measurements, load_measurements
from pmni.refinement.refine import Refiner
from pmni.registration.graph import PairGraph
from pmni.registration.lookalikes import turns
from pmni.registration.neighbours import disorder
from pmni.registration.pose_set import differences_deg
from pmni.registration.revolution import turning_loss
from pmni.registration.views import Views
from pmni.rendering.sphere_tracing import box_interval, trace

COARSEST, COARSE = 32, 64
"""Cells of the grids on which candidates are refined."""
LOOK = (COARSEST,) * 3
"""The cells of each outer iteration, before the candidates are ranked..."""
FIRST = (COARSEST,) * 6
"""... of the leading ones..."""
SECOND = (COARSEST, COARSE, COARSE, COARSE, COARSE)
"""... and of the best and the runner-up."""
PIXELS, STEPS = 600, 30
"""Of each view, and of conjugate gradients, in an outer iteration..."""
FEWER_PIXELS, FEWER_STEPS = 300, 15
"""... and of a look."""
LEADING, BEHIND = 2, 0.2
"""Most candidates that are refined further after a look, and by how much less than the best they
may be explained."""
CLEARLY_BEHIND = 0.1
"""So is a runner-up, at the places where it differs, that is not refined on the finer grid."""
CONVINCING = 0.8
"""If so much is explained on the coarsest grid, no further candidates are looked for."""
PROBES = 400
"""Pixels of each view that are compared with the surface."""
CLUELESS_DEG = 40.0
"""An error of a normal from which on it is as good as any; so is a ray that misses."""
OUTLIER = 0.7
"""Of the median over the views: a view that is explained less than so much is misplaced, and if it
remains so the poses are refused."""
DOUBTFUL = 0.025
"""Turned onto another side of the object, a view is explained worse by so much or less: it may
belong there. If there is none, the one that loses least, up to twice as much, is tried."""
ROUNDS, LAST_ROUNDS = 4, 2
"""Of moving views, at most, on the coarsest grid and on the finer one."""
UNSETTLED = 0.03
"""A gain of the last round from which on it is worth to go on refining, even if no view moves."""
HOPELESS = 0.25
"""Candidates that are explained less are not refined any more."""
DISTINCT_DEG = 12.0
"""Two candidates are different when a view's poses differ by as much."""
LEAST_EXPLAINED = 0.45
"""Of the views together; half of it of each view."""
LEAST_MARGIN, FEW_VIEWS = 0.02, 10
"""By which the best must be better explained than a different candidate. Fewer views share less of
the surface, and are explained more easily: the margin then grows as the pairs of views become
fewer."""
MOST_DISORDER = 1.4
"""Views that differ by so much more from neighbours than from others have been mixed up."""
TURNS = 4
"""Parts of a full turn about an axis that are tried for the object's symmetry."""
TURNING_LOSS = 0.35
"""If turning one view of a pair loses less of their agreement, the object is one of revolution."""
SYMMETRY_LOSS, NEARLY_SYMMETRIC = 0.04, 0.25
"""If turning the views about an axis by any angle loses less than the first, the axis is one of
revolution; if less than the second, it may not have been met exactly."""
ADVICE = (
    "give the poses, or set registration.method: ring (a turntable's elevation and direction), or "
    "registration.ordered: true if the views are in order"
)


Pose = tuple[str, Float[np.ndarray, "V 4 4"]]
"""A candidate: its kind, and camera-to-world poses."""


@dataclass(frozen=True)
class Verified:
    """Poses that stood the test."""

    c2w: Float[np.ndarray, "V 4 4"]
    kind: str
    explained: Float[np.ndarray, "V"]
    """Of each view: 1 - mean angle between its normals and the surface's / CLUELESS_DEG, from 0 for
    arbitrary poses to 1."""
    margin: float | None
    """By how much better the views are explained that the next different candidate has elsewhere;
    None when all candidates came to be the same."""
    disorder: float
    """See `disorder`."""
    symmetry_loss: float
    """How much less is explained when all views are turned about the object's axis that is nearest
    to one of revolution."""


@dataclass(frozen=True)
class _Trial:
    """A candidate during the test."""

    kind: str
    refiner: Refiner
    explained: Float[Tensor, "V"]

    @property
    def c2w(self) -> Float[np.ndarray, "V 4 4"]:
        return self.refiner.estimate.c2w().cpu().numpy()

    @property
    def score(self) -> float:
        return float(self.explained.mean())


class Verifier:
    """Refines and judges candidates for one capture, at the resolution of the search.

    With `ordered` views the order decides what the views alone leave open: an object of revolution
    and a runner-up are then no reasons to refuse.
    """

    def __init__(
        self,
        capture: Capture,
        views: Views,
        graph: PairGraph,
        seed: int,
        ordered: bool = False,
    ) -> None:
        self.ordered = ordered
        self.graph, self.name, self.views = graph, capture.name, capture.views
        self.turning_loss = turning_loss(views, graph)
        small = shrunk(capture, views)
        self.measurements = load_measurements(small, (), views.depth.device)
        self.settings = RefineSettings(cells=COARSE, bias_deg=0.0, flattening=False, seed=seed)

    def best(
        self,
        candidates: list[Pose],
        further: Callable[[], list[Pose]] = list,
    ) -> Verified:
        """The candidate (kind, c2w) that explains the views best; of the further ones too, if none
        of the first convinces.

        Raises ConvergenceError when none does well enough, when a different one does as well, or
        when the object looks the same from all sides of an axis.
        """
        if self.turning_loss < TURNING_LOSS and not self.ordered:
            self._refuse_revolution()
        looks = self._looks(candidates)
        trials = self._all_tried(looks, [])
        if max((trial.score for trial in trials), default=0.0) < CONVINCING:
            trials = self._all_tried(self._looks(further()), trials)
        if not trials:
            raise ConvergenceError(
                f"{self.name}: no poses were found under which the views show one surface; exclude "
                "views that show little, or give the poses"
            )
        first, *others = self._distinct(trials)
        finished = [self.finished(first)]
        if others and margin_over(first, others[0]) < CLEARLY_BEHIND:
            finished = self._distinct([*finished, self.finished(others[0])])
            others = finished[1:]
        best = finished[0]
        others = [other for other in others if elsewhere(best, other).any()]
        margin = margin_over(best, others[0]) if others else None
        estimate = best.refiner.estimate
        mixed = disorder(self.measurements, estimate.surface, estimate.c2w())
        loss = self.symmetry_loss(best)
        found = Verified(best.c2w, best.kind, best.explained.cpu().numpy(), margin, mixed, loss)
        self._refuse(found)
        return found

    def _looks(self, candidates: list[Pose]) -> list[_Trial]:
        """Each candidate refined a little, where a surface is left."""
        found = []
        for kind, c2w in candidates:
            try:
                found.append(self._refined(kind, c2w, LOOK, FEWER_PIXELS, FEWER_STEPS))
            except LostSurfaceError:
                continue
        return found

    def _all_tried(self, looks: list[_Trial], trials: list[_Trial]) -> list[_Trial]:
        """The trials, and those of the leading looks."""
        trials = list(trials)
        for look in self._distinct(looks)[:LEADING]:
            best = max((one.score for one in [*looks, *trials]), default=0.0)
            if look.score > best - BEHIND:
                trial = self.tried(look.kind, look.c2w)
                trials += [] if trial is None else [trial]
        return trials

    def tried(self, kind: str, c2w: Float[np.ndarray, "V 4 4"]) -> _Trial | None:
        """Refined on the coarsest grid, misplaced views moved; None if no surface is left."""
        try:
            return self._settled(kind, c2w, FIRST, ROUNDS)
        except LostSurfaceError:
            return None

    def finished(self, trial: _Trial) -> _Trial:
        """Refined on both grids, misplaced views moved; as it is if there is no hope."""
        if trial.score < HOPELESS:
            return trial
        return self._settled(trial.kind, trial.c2w, SECOND, LAST_ROUNDS)

    def _settled(
        self, kind: str, c2w: Float[np.ndarray, "V 4 4"], plan: tuple[int, ...], rounds: int
    ) -> _Trial:
        trial, gain = self._refined(kind, c2w, plan), 0.0
        for _ in range(rounds):
            moved = self.replaced(trial)
            if moved is None and gain > UNSETTLED:
                moved = trial.c2w
            if moved is None or trial.score < HOPELESS:
                break
            try:
                again = self._refined(kind, moved, plan)
            except LostSurfaceError:
                break
            gain = again.score - trial.score
            if gain <= 0:
                break
            trial = again
        return trial

    def _refined(
        self,
        kind: str,
        c2w: Float[np.ndarray, "V 4 4"],
        plan: tuple[int, ...],
        pixels: int = PIXELS,
        steps: int = STEPS,
    ) -> _Trial:
        start = torch.as_tensor(centred(c2w, self.measurements), device=self.measurements.device)
        surface = hull(self.measurements, start, COARSEST + 1)
        settings = self.settings.model_copy(update={"pixels": pixels, "conjugate_gradients": steps})
        refiner = Refiner(self.measurements, surface, start, settings, COARSEST)
        for cells in plan:
            refiner.step(cells)
        estimate = refiner.estimate
        return _Trial(kind, refiner, self.explained(estimate.surface, estimate.c2w()))

    def explained(
        self, surface: SDF, c2w: Float[Tensor, "V 4 4"], view: int | None = None
    ) -> Float[Tensor, "K"]:
        """1 - mean angle / CLUELESS_DEG between normals and the surface's, for each view, or for
        each of K poses of one view."""
        m = self.measurements
        generator = torch.Generator(device=m.device).manual_seed(1)
        index = m.draw_pixels(PROBES, generator)
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
        return 1 - angle.view(len(c2w), -1).mean(1) / CLUELESS_DEG

    def replaced(self, trial: _Trial) -> Float[np.ndarray, "V 4 4"] | None:
        """The poses with misplaced views where the pairs suggest that they are explained best;
        without any, with those that are explained nearly as well on another side of the object that
        looks like theirs. None if there are neither."""
        misplaced = trial.explained < OUTLIER * trial.explained.median()
        if not misplaced.any():
            return self._turned(trial)
        c2w = trial.c2w.copy()
        for view in torch.nonzero(misplaced)[:, 0].tolist():
            suggested = self._suggested(trial.c2w, view, misplaced.cpu().numpy())
            poses = torch.as_tensor(suggested, device=trial.explained.device)
            explained = self.explained(trial.refiner.estimate.surface, poses, view)
            if len(explained) and explained.max() > trial.explained[view]:
                c2w[view] = suggested[int(explained.argmax())]
        return c2w

    def _turned(self, trial: _Trial) -> Float[np.ndarray, "V 4 4"] | None:
        """With the views turned that are hardly explained worse so; None if there are none."""
        w2c = invert_rigid(trial.c2w)
        found = turns(self.graph, w2c[:, :3, :3])
        motions = np.tile(np.eye(4), (2 * len(found), 1, 1))
        if not found:
            return None
        motions[:, :3, :3] = np.concatenate([found, np.swapaxes(found, 1, 2)])
        best, loss = trial.c2w.copy(), np.empty(len(w2c))
        for view, (pose, own) in enumerate(zip(w2c, trial.explained.tolist(), strict=True)):
            poses = invert_rigid(pose @ motions)
            on = torch.as_tensor(poses, device=trial.explained.device)
            explained = self.explained(trial.refiner.estimate.surface, on, view)
            best[view] = poses[int(explained.argmax())]
            loss[view] = own - float(explained.max())
        chosen = loss < max(DOUBTFUL, float(loss.min()) + 1e-9)
        if loss.min() > 2 * DOUBTFUL or 2 * chosen.sum() > len(chosen):
            return None
        return np.where(chosen[:, None, None], best, trial.c2w)

    def _suggested(
        self, c2w: Float[np.ndarray, "V 4 4"], view: int, misplaced: np.ndarray
    ) -> Float[np.ndarray, "K 4 4"]:
        """Poses of a view by the hypotheses of its pairs with views that are in their place."""
        graph, w2c = self.graph, invert_rigid(c2w)
        found = []
        for pair, R, t, scores in zip(
            graph.pairs, graph.rotations, graph.translations, graph.scores, strict=True
        ):
            if view not in pair or misplaced[pair.sum() - view]:
                continue
            relative = np.tile(np.eye(4), (int(np.isfinite(scores).sum()), 1, 1))
            relative[:, :3, :3], relative[:, :3, 3] = (
                R[np.isfinite(scores)],
                t[np.isfinite(scores)],
            )
            if view == pair[0]:
                relative = invert_rigid(relative)
            found.append(relative @ w2c[pair.sum() - view])
        return invert_rigid(np.concatenate(found)) if found else np.zeros((0, 4, 4))

    def symmetry_loss(self, trial: _Trial) -> float:
        """The least, over axes, of the most that is lost when the views are turned about the axis.

        Tried are the object's principal axes; if one comes near to an axis of revolution, those
        around it too.
        """
        points = surface_points(trial.refiner.estimate.surface)
        middle = points.mean(0)
        _, principal = np.linalg.eigh(np.cov((points - middle).T))
        losses = [self._turning_loss(trial, axis, middle) for axis in principal.T]
        best = int(np.argmin(losses))
        if not SYMMETRY_LOSS < losses[best] < NEARLY_SYMMETRIC:
            return losses[best]
        axis, across = principal[:, best], np.delete(principal, best, axis=1)

        def loss(x: Float[np.ndarray, "4"]) -> float:
            tilted = axis + across @ x[:2]
            return self._turning_loss(
                trial, tilted / np.linalg.norm(tilted), middle + across @ x[2:]
            )

        simplex = 0.04 * np.vstack([np.zeros(4), np.eye(4)])
        options = {"maxfev": 40, "initial_simplex": simplex}
        return float(minimize(loss, np.zeros(4), method="Nelder-Mead", options=options).fun)

    def _turning_loss(
        self, trial: _Trial, axis: Float[np.ndarray, "3"], middle: Float[np.ndarray, "3"]
    ) -> float:
        """The most that is lost when all views are turned about an axis."""
        surface, c2w = trial.refiner.estimate.surface, trial.refiner.estimate.c2w()
        kept = []
        for turn in range(1, TURNS):
            motion = np.eye(4)
            motion[:3, :3] = Rotation.from_rotvec(2 * np.pi * turn / TURNS * axis).as_matrix()
            motion[:3, 3] = middle - motion[:3, :3] @ middle
            turned = torch.as_tensor(motion, device=c2w.device) @ c2w
            kept.append(float(self.explained(surface, turned).mean()))
        return trial.score - min(kept)

    def _distinct(self, trials: list[_Trial]) -> list[_Trial]:
        """The best of those that are the same up to a few degrees, best first."""
        kept: list[_Trial] = []
        for trial in sorted(trials, key=lambda trial: -trial.score):
            if all(elsewhere(trial, other).any() for other in kept):
                kept.append(trial)
        return kept

    def _refuse_revolution(self) -> NoReturn:
        raise ConvergenceError(
            f"{self.name}: the views do not determine the poses: the object looks the same "
            f"from all sides of an axis; {ADVICE}"
        )

    def _refuse(self, found: Verified) -> None:
        worst = int(found.explained.argmin())
        if found.symmetry_loss < SYMMETRY_LOSS and not self.ordered:
            self._refuse_revolution()
        if found.explained.mean() < LEAST_EXPLAINED:
            raise ConvergenceError(
                f"{self.name}: no poses were found from which one surface explains the normals "
                f"({found.explained.mean():.2f} of 1); {ADVICE}"
            )
        least = max(LEAST_EXPLAINED / 2, OUTLIER * float(np.median(found.explained)))
        if found.explained[worst] < least:
            raise ConvergenceError(
                f"{self.name}: view {self.views[worst]} fits nowhere to the others: exclude it, "
                f"check its normals and mask, or {ADVICE}"
            )
        if found.disorder > MOST_DISORDER:
            raise ConvergenceError(
                f"{self.name}: views agree better with others far away than with their neighbours "
                "(two sides of the object that look alike may lie on one another); "
                f"{ADVICE}"
            )
        margin = LEAST_MARGIN * max(1.0, FEW_VIEWS / len(found.explained)) ** 2
        if found.margin is not None and found.margin < margin and not self.ordered:
            raise ConvergenceError(
                f"{self.name}: the views do not determine the poses: two different solutions "
                f"explain them equally well; {ADVICE}"
            )


def elsewhere(first: _Trial, second: _Trial) -> Bool[np.ndarray, "V"]:
    """Which views are at different places in two trials."""
    R, other = (invert_rigid(trial.c2w)[:, :3, :3] for trial in (first, second))
    return differences_deg(R, other) > DISTINCT_DEG


def margin_over(best: _Trial, other: _Trial) -> float:
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
    return Capture(capture.name, capture.views, normals, masks, intrinsics, sizes=np.array(sizes))


def centred(
    c2w: Float[np.ndarray, "V 4 4"], measurements: Measurements
) -> Float[np.ndarray, "V 4 4"]:
    """The poses in a world whose origin is nearest to the rays through the masks' centres."""
    middle = torch.stack(
        [
            part.float().mean(0)
            for part in measurements.pixels.split(measurements.first_pixel.diff().tolist())
        ]
    )
    zero = torch.zeros((), device=middle.device)
    local = measurements.directions(middle[:, None], zero)[:, 0].double().cpu().numpy()
    d = np.einsum("vij,vj->vi", c2w[:, :3, :3], local)
    across = np.eye(3) - d[:, :, None] * d[:, None, :]
    origin = np.linalg.solve(across.sum(0), np.einsum("vij,vj->i", across, c2w[:, :3, 3]))
    moved = c2w.copy()
    moved[:, :3, 3] -= origin
    return moved


def surface_points(surface: SDF) -> Float[np.ndarray, "N 3"]:
    """Nodes of a coarse grid inside the object."""
    nodes = grid_nodes(COARSEST + 1, torch.device("cpu")).view(-1, 3)
    return nodes[surface(nodes) < 0].numpy()
