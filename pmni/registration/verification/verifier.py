"""Verification of candidates: how consistently one surface explains all views from their poses.

Each candidate's poses are refined together with a coarse surface, which corrects errors of several
degrees. Views that the surface then does not explain are tried at the other poses that pairs of
views suggest, and finally at all poses around the object. The best candidate is accepted, unless
the views do not determine the poses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Bool, Float

from pmni.config.refinement import (
    ConcavitySettings,
    PriorSettings,
    RefineSettings,
    VisualHullSettings,
)
from pmni.config.registration import RegisterSettings
from pmni.data.capture import Capture
from pmni.data.views import Views
from pmni.errors import ConvergenceError, LostSurfaceError
from pmni.geometry.cameras import invert_rigid
from pmni.refinement.initial_surface import initial_hull
from pmni.refinement.observations import Observations
from pmni.refinement.solver import GaussNewtonSolver
from pmni.registration.multiview.graph import PairGraph
from pmni.registration.multiview.strategies import Candidate
from pmni.registration.multiview.turntable import fit_turntable
from pmni.registration.multiview.view_ambiguity import symmetry_rotations
from pmni.registration.verification.global_pose_search import global_pose_search
from pmni.registration.verification.neighbour_inconsistency import neighbour_inconsistency
from pmni.registration.verification.rotational_symmetry import rotational_symmetry_score
from pmni.registration.verification.surface_symmetry import symmetry_loss
from pmni.registration.verification.trial import (
    COARSE_CELLS,
    FINE_CELLS,
    Trial,
    centred,
    contour_distances,
    contour_ratio,
    differing_views,
    downsampled,
    margin_over,
    normal_consistency,
)
from pmni.registration.working_views import WorkingViews

COARSE_PLAN = (COARSE_CELLS,) * 3
"""Cells of the grid in each outer iteration of a coarse trial, of every candidate."""
MID_PLAN = (COARSE_CELLS,) * 6
"""Cells of the grid in each outer iteration of a mid trial, of the leading candidates."""
FINE_PLAN = (COARSE_CELLS, FINE_CELLS, FINE_CELLS, FINE_CELLS, FINE_CELLS)
"""Cells of the grid in each outer iteration of a fine trial, of the best and the runner-up."""
ADVICE = (
    "give the poses, or set registration.method: turntable (with its elevation and direction), or "
    "registration.ordered: true if the views are in order"
)
"""What to do when poses are refused."""


@dataclass(frozen=True)
class Verified:
    """Accepted poses, and the measures by which they were accepted."""

    c2w: Float[np.ndarray, "V 4 4"]
    assumption: str
    """What the strategy assumed that found the poses."""
    normal_consistency: Float[np.ndarray, " V"]
    """1 - mean angle between observed normals and the surface's / saturation angle, of each view:
    from 0 for arbitrary poses to 1."""
    margin: float | None
    """Difference of consistency to the next different candidate, over the views that differ; None
    if all candidates converged to the same poses."""
    contour_ratio: float | None
    """Factor by which the next different candidate's contour distances exceed those of the poses;
    None where the margin decides."""
    neighbour_inconsistency: float
    symmetry_loss: float
    """Loss of consistency when all views are rotated about the axis that is closest to an axis of
    revolution."""


class Verifier:
    """Refines and judges candidates of one capture, at the resolution of its working views.

    The given order of `ordered` views decides what the views alone leave open: an object of
    revolution and a runner-up are then no reasons to refuse.
    """

    def __init__(
        self, capture: Capture, views: WorkingViews, graph: PairGraph, settings: RegisterSettings
    ) -> None:
        self.settings, self.ordered = settings.verification, settings.ordered
        self.turntable, self.ambiguity = settings.multiview.turntable, settings.multiview.ambiguity
        self.graph, self.name, self.views = graph, capture.name, capture.views
        self.rotational_symmetry_score = rotational_symmetry_score(views, graph, settings)
        small = Views.of(downsampled(capture, views), device=views.device)
        self.observations = Observations.of(small)
        self.refine_settings = RefineSettings(
            cells=FINE_CELLS,
            coarsest_cells=COARSE_CELLS,
            seed=settings.seed,
            visual_hull=VisualHullSettings(nodes=COARSE_CELLS + 1),
            priors=PriorSettings(bias_field_deg=0.0, normal_tilt_bias=False),
            concavities=ConcavitySettings(enabled=False),
        )

    def best(
        self,
        candidates: list[Candidate],
        further: Callable[[], list[Candidate]] = list,
        about_axis: bool = False,
    ) -> Verified:
        """The candidate with the highest consistency; also of further ones, if none of the first is
        accepted at once. `about_axis` says that pairs suggest a common axis.

        Raises ConvergenceError when no candidate is consistent enough, when a different one is as
        consistent, or when the object looks the same from all sides of an axis.
        """
        symmetric = self.rotational_symmetry_score < self.settings.min_rotational_symmetry_score
        if symmetric and not self.ordered:
            self._refuse_revolution()
        accept = self.settings.accept_about_axis if about_axis else self.settings.accept
        trials = self._mid_trials(self._coarse_trials(candidates), [])
        if max((trial.score for trial in trials), default=0.0) < accept:
            trials = self._mid_trials(self._coarse_trials(further()), trials)
        if not trials:
            raise ConvergenceError(
                f"{self.name}: no poses were found under which the views show one surface; exclude "
                "views that show little, or give the poses"
            )
        verified = self._judged(trials)
        self._refuse(verified)
        return verified

    def _judged(self, trials: list[Trial]) -> Verified:
        """The best of the trials after a fine trial, compared with the runner-up."""
        first, *others = self._distinct(trials)
        fine = [self.fine_trial(first)]
        if others and self._margin(first, others[0]) < self.settings.runner_up_margin:
            fine = self._distinct([*fine, self.fine_trial(others[0])])
            others = fine[1:]
        best = fine[0]
        others = [other for other in others if self._differing(best, other).any()]
        ratio = None
        if others and not self.ordered and self._is_close(best, others[0]):
            best, others, ratio = self._by_contours(best, others)
        state = best.solver.state
        return Verified(
            c2w=best.c2w,
            assumption=best.assumption,
            normal_consistency=best.normal_consistency.cpu().numpy(),
            margin=self._margin(best, others[0]) if others else None,
            contour_ratio=ratio,
            neighbour_inconsistency=neighbour_inconsistency(
                self.observations, state.surface, state.c2w()
            ),
            symmetry_loss=symmetry_loss(best, self.settings),
        )

    def _by_contours(self, best: Trial, others: list[Trial]) -> tuple[Trial, list[Trial], float]:
        """The best of two trials whose normals fit equally well, the others, and the ratio of their
        contour distances.

        Normals that are systematically drawn towards the camera fit poses that have drifted off as
        well as the right ones, but silhouettes do not. Those of an object that is symmetric fit
        equally well, too.
        """
        rival, *rest = others
        points, significance = self.settings.probes, self.settings.contour_significance
        distances = contour_distances(best, points), contour_distances(rival, points)
        ratio = contour_ratio(*distances, significance)
        if ratio * self.settings.min_contour_ratio > 1:
            return best, others, ratio
        return rival, [best, *rest], 1 / ratio

    def _is_close(self, best: Trial, other: Trial) -> bool:
        """Whether normals do not tell which of two different trials is the better one."""
        return self._margin(best, other) < self._least_margin(best.c2w)

    def _least_margin(self, c2w: Float[np.ndarray, "V 4 4"]) -> float:
        """The least margin over a different candidate that tells these poses from it."""
        settings = self.settings
        share = settings.turntable_margin_factor if self._is_uniform(c2w) else 1.0
        return settings.min_margin * share * max(1.0, settings.few_views / len(c2w)) ** 2

    def _coarse_trials(self, candidates: list[Candidate]) -> list[Trial]:
        """Each candidate after a brief refinement, if a surface is left."""
        pixels, iterations = self.settings.coarse_pixels, self.settings.coarse_conjugate_gradients
        trials = []
        for candidate in candidates:
            start = candidate.assumption, candidate.c2w
            try:
                trials.append(self._refined(*start, COARSE_PLAN, pixels, iterations))
            except LostSurfaceError:
                continue
        return trials

    def _mid_trials(self, coarse: list[Trial], trials: list[Trial]) -> list[Trial]:
        """The trials, and those of the leading coarse trials."""
        trials = list(trials)
        for leader in self._distinct(coarse)[: self.settings.leading]:
            best = max((trial.score for trial in [*coarse, *trials]), default=0.0)
            if leader.score > best - self.settings.max_deficit:
                trial = self.mid_trial(leader.assumption, leader.c2w)
                trials += [] if trial is None else [trial]
        return trials

    def mid_trial(self, assumption: str, c2w: Float[np.ndarray, "V 4 4"]) -> Trial | None:
        """Poses refined on the coarse grid, outlier views moved; None if no surface is left."""
        try:
            return self._settled(assumption, c2w, MID_PLAN, self.settings.rounds)
        except LostSurfaceError:
            return None

    def fine_trial(self, trial: Trial) -> Trial:
        """A trial refined on both grids, outlier views moved; the same if it is rejected."""
        if trial.score < self.settings.reject:
            return trial
        plan, rounds = FINE_PLAN, self.settings.last_rounds
        return self._settled(trial.assumption, trial.c2w, plan, rounds)

    def _settled(
        self, assumption: str, c2w: Float[np.ndarray, "V 4 4"], plan: tuple[int, ...], rounds: int
    ) -> Trial:
        """A trial after rounds of moving outlier views and refining all."""
        trial, gain = self._refined(assumption, c2w, plan), 0.0
        for _ in range(rounds):
            moved = self.with_moved_views(trial)
            if moved is None and gain > self.settings.converged_gain:
                moved = trial.c2w
            if moved is None or trial.score < self.settings.reject:
                break
            try:
                again = self._refined(assumption, moved, plan)
            except LostSurfaceError:
                break
            gain = again.score - trial.score
            if gain <= 0:
                break
            trial = again
        return trial

    def _refined(
        self,
        assumption: str,
        c2w: Float[np.ndarray, "V 4 4"],
        plan: tuple[int, ...],
        pixels: int | None = None,
        conjugate_gradients: int | None = None,
    ) -> Trial:
        """Poses refined together with a surface from the visual hull."""
        observations = self.observations
        start = torch.as_tensor(centred(c2w, observations), device=observations.device)
        surface = initial_hull(observations, start, self.refine_settings.visual_hull)
        settings = self.refine_settings.model_copy(
            update={
                "pixels": pixels or self.settings.pixels,
                "conjugate_gradients": conjugate_gradients or self.settings.conjugate_gradients,
            }
        )
        solver = GaussNewtonSolver(observations, surface, start, settings)
        for cells in plan:
            solver.step(cells)
        return Trial(assumption, solver, self._consistency(solver, solver.state.c2w()))

    def with_moved_views(self, trial: Trial) -> Float[np.ndarray, "V 4 4"] | None:
        """Poses with outlier views moved to where they are most consistent; None if none moves.

        Pairs of views suggest poses; where none of them is good enough and outliers are few, all
        poses around the object are searched. Without outliers, views are moved that are nearly as
        consistent on another side of the object, unless it is a uniform turntable.
        """
        least = self.settings.outlier_ratio * float(trial.normal_consistency.median())
        is_outlier = trial.normal_consistency < least
        if not is_outlier.any():
            return None if self._is_uniform(trial.c2w) else self._with_doubtful_moved(trial)
        outliers = is_outlier.cpu().numpy()
        c2w = trial.c2w.copy()
        for view in np.flatnonzero(outliers).tolist():
            poses = self._suggested(trial.c2w, view, outliers)
            consistency = self._view_consistency(trial, view, poses)
            few = outliers.sum() <= self.settings.searched_outliers
            if consistency.max(initial=0) < least and few:
                other = global_pose_search(trial, view, c2w[~outliers], self.settings)
                poses = np.concatenate([poses, other[None]])
                consistency = self._view_consistency(trial, view, poses)
            if consistency.max(initial=0) > trial.normal_consistency[view]:
                c2w[view] = poses[int(consistency.argmax())]
        return c2w

    def _with_doubtful_moved(self, trial: Trial) -> Float[np.ndarray, "V 4 4"] | None:
        """Poses with the views on another side of the object that lose hardly any consistency
        there; None if there are none, or more than half of the views."""
        w2c = invert_rigid(trial.c2w)
        rotations = symmetry_rotations(self.graph, w2c[:, :3, :3], self.ambiguity)
        if not rotations:
            return None
        motions = np.tile(np.eye(4), (2 * len(rotations), 1, 1))
        motions[:, :3, :3] = np.concatenate([rotations, np.swapaxes(rotations, 1, 2)])
        c2w, loss = trial.c2w.copy(), np.empty(len(w2c))
        for view, (pose, own) in enumerate(
            zip(w2c, trial.normal_consistency.tolist(), strict=True)
        ):
            poses = invert_rigid(pose @ motions)
            consistency = self._view_consistency(trial, view, poses)
            c2w[view] = poses[int(consistency.argmax())]
            loss[view] = own - float(consistency.max())
        doubtful = self.settings.doubtful_loss
        moved = loss < max(doubtful, float(loss.min()) + 1e-9)
        if loss.min() > 2 * doubtful or 2 * moved.sum() > len(moved):
            return None
        return np.where(moved[:, None, None], c2w, trial.c2w)

    def _suggested(
        self,
        c2w: Float[np.ndarray, "V 4 4"],
        view: int,
        outliers: Bool[np.ndarray, " V"],
    ) -> Float[np.ndarray, "K 4 4"]:
        """Poses of a view by the hypotheses of its pairs with inlier views."""
        graph, w2c = self.graph, invert_rigid(c2w)
        poses = []
        for pair, R, t, scores in zip(
            graph.pairs, graph.rotations, graph.translations, graph.scores, strict=True
        ):
            if view not in pair or outliers[pair.sum() - view]:
                continue
            exists = np.isfinite(scores)
            relative = np.tile(np.eye(4), (int(exists.sum()), 1, 1))
            relative[:, :3, :3], relative[:, :3, 3] = R[exists], t[exists]
            if view == pair[0]:
                relative = invert_rigid(relative)
            poses.append(relative @ w2c[pair.sum() - view])
        return invert_rigid(np.concatenate(poses)) if poses else np.zeros((0, 4, 4))

    def _consistency(
        self, solver: GaussNewtonSolver, c2w: torch.Tensor, view: int | None = None
    ) -> torch.Tensor:
        surface = solver.state.surface
        return normal_consistency(self.observations, surface, c2w, self.settings, view)

    def _view_consistency(
        self, trial: Trial, view: int, c2w: Float[np.ndarray, "K 4 4"]
    ) -> Float[np.ndarray, " K"]:
        """The consistency of one view at each of K poses."""
        poses = torch.as_tensor(c2w, device=trial.normal_consistency.device)
        return self._consistency(trial.solver, poses, view).cpu().numpy()

    def _distinct(self, trials: list[Trial]) -> list[Trial]:
        """The best of trials with the same poses up to a few degrees, best first."""
        kept: list[Trial] = []
        for trial in sorted(trials, key=lambda trial: -trial.score):
            if all(self._differing(trial, other).any() for other in kept):
                kept.append(trial)
        return kept

    def _differing(self, first: Trial, second: Trial) -> Bool[np.ndarray, " V"]:
        return differing_views(first, second, self.settings.separation_deg)

    def _margin(self, best: Trial, other: Trial) -> float:
        return margin_over(best, other, self.settings.separation_deg)

    def _is_uniform(self, c2w: Float[np.ndarray, "V 4 4"]) -> bool:
        """Whether all views are at equal steps about one axis."""
        rotations = invert_rigid(c2w)[:, :3, :3]
        return fit_turntable(rotations, self.turntable).is_uniform_without_exception

    def _refuse_revolution(self) -> NoReturn:
        raise ConvergenceError(
            f"{self.name}: the views do not determine the poses: the object looks the same "
            f"from all sides of an axis; {ADVICE}"
        )

    def _refuse(self, verified: Verified) -> None:
        """Raise ConvergenceError unless the poses are determined and consistent."""
        settings, consistency = self.settings, verified.normal_consistency
        if verified.symmetry_loss < settings.min_symmetry_loss and not self.ordered:
            self._refuse_revolution()
        uniform = self._is_uniform(verified.c2w)
        few = len(consistency) < settings.few_views and not uniform
        least = settings.min_consistency_few_views if few else settings.min_consistency
        if consistency.mean() < least:
            raise ConvergenceError(
                f"{self.name}: no poses were found from which one surface explains the normals "
                f"({consistency.mean():.2f} of 1); {ADVICE}"
            )
        self._refuse_outlier(consistency, uniform)
        if verified.neighbour_inconsistency > settings.max_neighbour_inconsistency:
            raise ConvergenceError(
                f"{self.name}: views agree better with others far away than with their neighbours "
                "(two sides of the object that look alike may lie on one another); "
                f"{ADVICE}"
            )
        decided = (verified.contour_ratio or 1.0) >= settings.min_contour_ratio
        margin = verified.margin
        undecided = margin is not None and margin < self._least_margin(verified.c2w)
        if undecided and not decided and not self.ordered:
            raise ConvergenceError(
                f"{self.name}: the views do not determine the poses: two different solutions "
                f"explain them equally well; {ADVICE}"
            )

    def _refuse_outlier(self, consistency: Float[np.ndarray, " V"], uniform: bool) -> None:
        """Raise ConvergenceError for a view that is much less consistent than the others."""
        settings = self.settings
        ratio = settings.turntable_outlier_ratio if uniform else settings.outlier_ratio
        least = max(settings.min_consistency / 2, ratio * float(np.median(consistency)))
        worst = int(consistency.argmin())
        if consistency[worst] < least:
            raise ConvergenceError(
                f"{self.name}: view {self.views[worst]} fits nowhere to the others: exclude it, "
                f"check its normals and mask, or {ADVICE}"
            )
