"""Candidates put to the test: how well one surface explains all views from their poses.

Each candidate's poses are refined together with a coarse surface. That corrects errors of several
degrees; views that the surface then does not explain are tried at all other places that the pairs
of views suggest, and at last anywhere. The best candidate stands, unless the views do not determine
the poses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Float

from pmni.config.refinement import (
    ConcavitySettings,
    PriorSettings,
    RefineSettings,
    VisualHullSettings,
)
from pmni.data.capture import Capture
from pmni.data.views import Views as CaptureViews
from pmni.errors import ConvergenceError, LostSurfaceError
from pmni.geometry.cameras import invert_rigid
from pmni.refinement.initial_surface import initial_hull
from pmni.refinement.observations import Observations
from pmni.refinement.solver import GaussNewtonSolver
from pmni.registration.multiview.graph import PairGraph
from pmni.registration.multiview.lookalikes import turns
from pmni.registration.multiview.turntable import OFF_AXIS, OFF_STEP, fit_turntable
from pmni.registration.verification.anywhere import anywhere
from pmni.registration.verification.neighbours import disorder
from pmni.registration.verification.revolution import turning_loss
from pmni.registration.verification.symmetry import SYMMETRY_LOSS, symmetry_loss
from pmni.registration.verification.trial import (
    COARSE,
    COARSEST,
    Trial,
    centred,
    elsewhere,
    explained,
    margin_over,
    shrunk,
)
from pmni.registration.views import Views

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
"""By how much less a runner-up that is not refined on the finer grid is explained, at the places
where it differs."""
CONVINCING, CONVINCING_ABOUT_AXIS = 0.8, 0.45
"""If so much is explained on the coarsest grid, no further candidates are looked for; the second
where the pairs of views say that there is a common axis."""
OUTLIER = 0.7
"""Of the median over the views: a view that is explained less than so much is misplaced, and if it
remains so the poses are refused."""
FEW_MISPLACED = 3
"""So many misplaced views are searched for without regard to the pairs, at most."""
IN_STEP_OUTLIER = 0.5
"""The same of poses which all are equal steps about one axis: no view is misplaced then, but some
may show what is hard to explain."""
DOUBTFUL = 0.025
"""Turned onto another side of the object, a view is explained worse by so much or less: it may
belong there. If there is none, the one that loses least, up to twice as much, is tried."""
ROUNDS, LAST_ROUNDS = 4, 2
"""Of moving views, at most, on the coarsest grid and on the finer one."""
UNSETTLED = 0.03
"""A gain of the last round from which on it is worth to go on refining, even if no view moves."""
HOPELESS = 0.25
"""Candidates that are explained less are not refined any more."""
LEAST_EXPLAINED = 0.45
"""Of the views together; half of it of each view."""
LEAST_OF_FEW = 0.6
"""Of fewer than FEW_VIEWS views that are not equal steps about an axis: poses that are nothing but
convenient explain few views rather well."""
LEAST_MARGIN, FEW_VIEWS = 0.02, 10
"""By which the best must be better explained than a different candidate. Fewer views share less of
the surface, and are explained more easily: the margin then grows as the pairs of views become
fewer."""
MOST_DISORDER = 1.4
"""Views that differ by so much more from neighbours than from others have been mixed up."""
IN_STEP_MARGIN = 0.5
"""Part of that margin for equal steps about an axis, which speak for themselves."""
TURNING_LOSS = 0.35
"""If turning one view of a pair loses less of their agreement, the object is one of revolution."""
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
    explained: Float[np.ndarray, " V"]
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
        self.observations = Observations.of(CaptureViews.of(small, device=views.depth.device))
        self.settings = RefineSettings(
            cells=COARSE,
            coarsest_cells=COARSEST,
            seed=seed,
            visual_hull=VisualHullSettings(nodes=COARSEST + 1),
            priors=PriorSettings(bias_field_deg=0.0, normal_tilt_bias=False),
            concavities=ConcavitySettings(enabled=False),
        )

    def best(
        self,
        candidates: list[Pose],
        further: Callable[[], list[Pose]] = list,
        convincing: float = CONVINCING,
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
        if max((trial.score for trial in trials), default=0.0) < convincing:
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
        state = best.solver.state
        mixed = disorder(self.observations, state.surface, state.c2w())
        loss = symmetry_loss(best)
        found = Verified(best.c2w, best.kind, best.explained.cpu().numpy(), margin, mixed, loss)
        self._refuse(found)
        return found

    def _looks(self, candidates: list[Pose]) -> list[Trial]:
        """Each candidate refined a little, where a surface is left."""
        found = []
        for kind, c2w in candidates:
            try:
                found.append(self._refined(kind, c2w, LOOK, FEWER_PIXELS, FEWER_STEPS))
            except LostSurfaceError:
                continue
        return found

    def _all_tried(self, looks: list[Trial], trials: list[Trial]) -> list[Trial]:
        """The trials, and those of the leading looks."""
        trials = list(trials)
        for look in self._distinct(looks)[:LEADING]:
            best = max((one.score for one in [*looks, *trials]), default=0.0)
            if look.score > best - BEHIND:
                trial = self.tried(look.kind, look.c2w)
                trials += [] if trial is None else [trial]
        return trials

    def tried(self, kind: str, c2w: Float[np.ndarray, "V 4 4"]) -> Trial | None:
        """Refined on the coarsest grid, misplaced views moved; None if no surface is left."""
        try:
            return self._settled(kind, c2w, FIRST, ROUNDS)
        except LostSurfaceError:
            return None

    def finished(self, trial: Trial) -> Trial:
        """Refined on both grids, misplaced views moved; as it is if there is no hope."""
        if trial.score < HOPELESS:
            return trial
        return self._settled(trial.kind, trial.c2w, SECOND, LAST_ROUNDS)

    def _settled(
        self, kind: str, c2w: Float[np.ndarray, "V 4 4"], plan: tuple[int, ...], rounds: int
    ) -> Trial:
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
    ) -> Trial:
        start = torch.as_tensor(centred(c2w, self.observations), device=self.observations.device)
        surface = initial_hull(self.observations, start, self.settings.visual_hull)
        settings = self.settings.model_copy(update={"pixels": pixels, "conjugate_gradients": steps})
        solver = GaussNewtonSolver(self.observations, surface, start, settings)
        for cells in plan:
            solver.step(cells)
        state = solver.state
        return Trial(kind, solver, explained(self.observations, state.surface, state.c2w()))

    def replaced(self, trial: Trial) -> Float[np.ndarray, "V 4 4"] | None:
        """The poses with misplaced views where the pairs suggest that they are explained best, or,
        if a few of them fit nowhere there, anywhere else; without any, with those that are
        explained nearly as well on another side of the object that looks like theirs, unless all
        are equal steps about one axis. None if there are neither."""
        least = OUTLIER * float(trial.explained.median())
        misplaced = trial.explained < least
        if not misplaced.any():
            return None if in_equal_steps(trial.c2w) else self._turned(trial)
        out = misplaced.cpu().numpy()
        c2w = trial.c2w.copy()
        for view in np.flatnonzero(out).tolist():
            suggested = self._suggested(trial.c2w, view, out)
            found = self._explained(trial, view, suggested)
            if found.max(initial=0) < least and out.sum() <= FEW_MISPLACED:
                other = anywhere(trial, view, c2w[~out])
                suggested = np.concatenate([suggested, other[None]])
                found = self._explained(trial, view, suggested)
            if found.max(initial=0) > trial.explained[view]:
                c2w[view] = suggested[int(found.argmax())]
        return c2w

    def _explained(
        self, trial: Trial, view: int, c2w: Float[np.ndarray, "K 4 4"]
    ) -> Float[np.ndarray, " K"]:
        """A view from each of some poses."""
        poses = torch.as_tensor(c2w, device=trial.explained.device)
        surface = trial.solver.state.surface
        return explained(self.observations, surface, poses, view).cpu().numpy()

    def _turned(self, trial: Trial) -> Float[np.ndarray, "V 4 4"] | None:
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
            there = explained(self.observations, trial.solver.state.surface, on, view)
            best[view] = poses[int(there.argmax())]
            loss[view] = own - float(there.max())
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

    def _distinct(self, trials: list[Trial]) -> list[Trial]:
        """The best of those that are the same up to a few degrees, best first."""
        kept: list[Trial] = []
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
        in_step = in_equal_steps(found.c2w)
        few = len(found.explained) < FEW_VIEWS and not in_step
        if found.explained.mean() < (LEAST_OF_FEW if few else LEAST_EXPLAINED):
            raise ConvergenceError(
                f"{self.name}: no poses were found from which one surface explains the normals "
                f"({found.explained.mean():.2f} of 1); {ADVICE}"
            )
        outlier = IN_STEP_OUTLIER if in_step else OUTLIER
        least = max(LEAST_EXPLAINED / 2, outlier * float(np.median(found.explained)))
        if found.explained[worst] < least:
            raise ConvergenceError(
                f"{self.name}: view {self.views[worst]} fits violates to the others: exclude it, "
                f"check its normals and mask, or {ADVICE}"
            )
        if found.disorder > MOST_DISORDER:
            raise ConvergenceError(
                f"{self.name}: views agree better with others far away than with their neighbours "
                "(two sides of the object that look alike may lie on one another); "
                f"{ADVICE}"
            )
        share = IN_STEP_MARGIN if in_step else 1.0
        margin = LEAST_MARGIN * share * max(1.0, FEW_VIEWS / len(found.explained)) ** 2
        if found.margin is not None and found.margin < margin and not self.ordered:
            raise ConvergenceError(
                f"{self.name}: the views do not determine the poses: two different solutions "
                f"explain them equally well; {ADVICE}"
            )


def in_equal_steps(c2w: Float[np.ndarray, "V 4 4"]) -> bool:
    """Whether all views, without exception, are equal steps about one axis."""
    found = fit_turntable(invert_rigid(c2w)[:, :3, :3])
    off_step = float(np.abs(found.off_step).max()) / found.step_deg
    return float(found.off_axis.max()) < OFF_AXIS and off_step < OFF_STEP
